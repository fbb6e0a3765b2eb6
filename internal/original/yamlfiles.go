package original

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/posthorn-mail/posthorn/internal/tenant/cascade"
	"github.com/posthorn-mail/posthorn/internal/tenant/hostrule"
)

// yamlFile calls f with the mapping that a file is; a file that is none is a finding.
func (r *Reader) yamlFile(file string, f func(root *yaml.Node)) {
	data, err := r.tree.read(file)
	var doc yaml.Node
	if err == nil {
		err = yaml.Load(data, &doc)
	}
	switch {
	case err != nil:
		r.finding(true, file, "it cannot be read: %s", reason(err))
	case len(doc.Content) == 0 || doc.Content[0].ShortTag() == "!!null": // only comments
	case doc.Content[0].Kind != yaml.MappingNode:
		r.finding(true, file, "it cannot be read: names with values are expected")
	default:
		f(doc.Content[0])
	}
}

// hosts takes over mailapp-config.yml as it is.
func (r *Reader) hosts() {
	const name = "mailapp-config.yml"
	taken := ""
	for _, file := range r.tree.named(name) {
		data, err := r.tree.read(file)
		if err != nil {
			r.finding(true, file, "it cannot be read: %s. Every host may use the app until it is there", reason(err))
			continue
		}
		rules, err := hostrule.Parse(file, data)
		why, v, to := "", Taken, "hosts_file"
		switch {
		case taken != "":
			why, v, to = "the one in "+taken+" is taken", Dropped, ""
		case err != nil:
			why, v, to = "the file is not good", Dropped, ""
			r.finding(true, file, "it is not taken, and every host may use the app until it is: %s", strings.ReplaceAll(err.Error(), "\n", "; "))
		default:
			taken = file
			r.out.set("hosts_file", r.out.file(name, data, 0o644), file)
			r.blocked(file, rules)
		}
		r.yamlFile(file, func(root *yaml.Node) {
			r.leaves(file, "", root, func(key string, n *yaml.Node) { r.yamlEntry(file, n.Line, key, n.Value, v, to, why, false) })
		})
	}
	if taken == "" {
		r.finding(false, name, "there is none, so every host may use the app, as before")
	}
}

// blocked tells of hosts whose rule had no effect when it is read by the letter.
func (r *Reader) blocked(file string, rules *hostrule.Rules) {
	var off []string
	all := false
	for _, rule := range rules.List() {
		switch {
		case rule.Host == hostrule.All:
			all = rule.Allowed
		case !rule.Allowed:
			off = append(off, rule.Host)
		}
	}
	if all && len(off) > 0 {
		r.finding(false, file, "%s off while the rule for all is on (%s): here the rule of a host beats that for all, so the app is refused there",
			plural(len(off), "host is", "hosts are"), strings.Join(off[:min(len(off), 5)], ", "))
	}
}

// maxLeaves bounds the keys of one YAML file.
const maxLeaves = 5000

// leaves calls f with each value of a YAML file by its path.
func (r *Reader) leaves(file, at string, n *yaml.Node, f func(key string, n *yaml.Node)) {
	left := maxLeaves
	var visit func(at string, n *yaml.Node, depth int)
	visit = func(at string, n *yaml.Node, depth int) {
		if n.Kind == yaml.AliasNode {
			n = &yaml.Node{Kind: yaml.ScalarNode, Line: n.Line, Value: "*" + n.Value}
		}
		switch {
		case depth > maxDepth || left == 0:
		case n.Kind == yaml.MappingNode && len(n.Content) > 0:
			for i := 0; i+1 < len(n.Content); i += 2 {
				key := n.Content[i].Value
				if at != "" {
					key = at + "." + key
				}
				visit(key, n.Content[i+1], depth+1)
			}
		case n.Kind == yaml.SequenceNode && slices.ContainsFunc(n.Content, func(e *yaml.Node) bool { return e.Kind != yaml.ScalarNode }):
			for i, e := range n.Content {
				visit(fmt.Sprintf("%s[%d]", at, i), e, depth+1)
			}
		case n.Kind == yaml.SequenceNode:
			left--
			items := make([]string, 0, len(n.Content))
			for _, e := range n.Content {
				items = append(items, e.Value)
			}
			f(at, &yaml.Node{Line: n.Line, Value: strings.Join(items, ", ")})
		default:
			left--
			f(at, n)
		}
	}
	visit(at, n, 0)
	if left == 0 {
		r.finding(false, file, "only its first %d values are in the report", maxLeaves)
	}
}

// setsDir is the directory of the original's context sets, and ours.
const setsDir = "contextSets"

// contextSets takes over the sets with those of their values that have a meaning here.
func (r *Reader) contextSets() {
	first := map[string]string{}
	for _, file := range r.tree.files {
		if !strings.EqualFold(path.Base(path.Dir(file)), setsDir) || !isYAML(file) {
			continue
		}
		data, err := r.tree.read(file)
		if err != nil {
			r.finding(true, file, "it cannot be read: %s", reason(err))
			continue
		}
		sets, problems := cascade.ParseSets(file, data)
		for _, p := range problems {
			r.finding(true, file, "%v", p)
		}
		root := &yaml.Node{Kind: yaml.MappingNode}
		for _, s := range sets {
			r.contextSet(file, s, root, first)
		}
		if len(root.Content) == 0 {
			continue
		}
		text, err := yaml.Dump(root, yaml.WithLineWidth(-1))
		if err != nil {
			r.finding(true, file, "it cannot be written: %v", err)
			continue
		}
		r.out.set("context_sets_dir", "contextsets", path.Dir(file))
		r.out.file("contextsets/"+path.Base(file), append([]byte("# From "+file+"\n"), text...), 0o644)
	}
}

func (r *Reader) contextSet(file string, s cascade.Set, root *yaml.Node, first map[string]string) {
	line := lineOf(s.Origin)
	drop := func(why string) {
		r.yamlEntry(file, line, s.Name+".withTags", s.WithTags, Dropped, "", why, true)
		for _, v := range s.Values {
			r.yamlEntry(file, lineOf(v.Origin), s.Name+"."+v.Name, v.Value, Dropped, "", "its context set was dropped", false)
		}
	}
	if err := s.Check(); err != nil {
		drop(err.Error())
		return
	}
	if other, twice := first[s.Name]; twice {
		drop("a context set of this name is in " + other + " already: rename one")
		return
	}
	body := &yaml.Node{Kind: yaml.MappingNode}
	put(body, "withTags", s.WithTags, "")
	kept := 0
	for _, v := range s.Values {
		name, text, why := property1(v.Name, yaml11(v.Value))
		if why != "" {
			hand := strings.HasSuffix(v.Name, ".mobile_mail_app")
			r.yamlEntry(file, lineOf(v.Origin), s.Name+"."+v.Name, v.Value, Dropped, "", why, hand)
			continue
		}
		kept++
		put(body, name, text, v.Name)
		r.yamlEntry(file, lineOf(v.Origin), s.Name+"."+v.Name, v.Value, Taken, "contextsets: "+name, "", false)
	}
	if kept == 0 {
		r.yamlEntry(file, line, s.Name+".withTags", s.WithTags, Dropped, "", "no value of the set has a meaning here", false)
		return
	}
	first[s.Name] = file
	r.yamlEntry(file, line, s.Name+".withTags", s.WithTags, Taken, "contextsets: "+s.Name, "", false)
	root.Content = append(root.Content, textNode(s.Name), body)
}

// yaml11 is a value as the system before read it: in YAML 1.1, yes and on are true as well.
func yaml11(value string) string {
	switch value {
	case "yes", "Yes", "YES", "on", "On", "ON":
		return "true"
	case "no", "No", "NO", "off", "Off", "OFF":
		return "false"
	}
	return value
}

// lineOf is the line of an origin "file:12".
func lineOf(origin string) int {
	n := 0
	if i := strings.LastIndexByte(origin, ':'); i >= 0 {
		_, _ = fmt.Sscanf(origin[i+1:], "%d", &n)
	}
	return n
}

func isYAML(file string) bool {
	return strings.HasSuffix(file, ".yml") || strings.HasSuffix(file, ".yaml")
}

const fewKinds = 8 // of files, that are named

const noUse = "the file is none that Posthorn has a use for"

// otherFiles says what becomes of the YAML files that have no counterpart here.
func (r *Reader) otherFiles() {
	read := []string{"mailapp-config.yml", "pns-apns-options.yml", "pns-apns_http2-options.yml", "pns-gcm-options.yml"}
	for _, file := range r.tree.files {
		name := path.Base(file)
		if !isYAML(file) || slices.Contains(read, name) || strings.EqualFold(path.Base(path.Dir(file)), setsDir) {
			continue
		}
		why := noUse
		switch {
		case strings.HasPrefix(name, "as-config"):
			why = "the look of the web interface for each host: a brand's name, logo and colour are those of a provider here (posthorn provider add)"
		case name == "pns-mobile-api-facade-clients.yml":
			why = "clients need no list of their own: push.allowed_clients says who may subscribe, transports.apns.apps and transports.fcm.apps by what"
		}
		r.yamlFile(file, func(root *yaml.Node) {
			r.leaves(file, "", root, func(key string, n *yaml.Node) { r.yamlEntry(file, n.Line, key, n.Value, Dropped, "", why, false) })
		})
	}
	if len(r.tree.other) > 0 {
		n := 0
		for _, of := range r.tree.other {
			n += of
		}
		kinds := sortedKeys(r.tree.other)
		more := ""
		if len(kinds) > fewKinds {
			kinds, more = kinds[:fewKinds], ", …"
		}
		r.finding(false, "other files", "%s not looked at (%s%s): no configuration of push is in such", plural(n, "file was", "files were"), strings.Join(kinds, ", "), more)
	}
}

// peeker is a reader whose first line can be looked at.
type peeker struct{ *bufio.Reader }

func newPeeker(in io.Reader) peeker { return peeker{bufio.NewReaderSize(in, 64<<10)} }

func (p peeker) firstLineHas(c byte) bool {
	head, _ := p.Peek(4096)
	line, _, _ := bytes.Cut(head, []byte("\n"))
	return bytes.IndexByte(line, c) >= 0
}
