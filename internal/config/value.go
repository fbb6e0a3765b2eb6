package config

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// value sets v, the field f at key, from node; line is 0 when the node is a default and not from the
// file. Secrets and sections are not its business.
func (l *loader) value(key string, line int, f field, v reflect.Value, node *yaml.Node) {
	node = resolve(node)
	s, isScalar := scalar(node)
	wrong := func(why string) { l.add(line, key, "expected %s, found %s%s", want[f.kind], found(node), why) }
	switch f.kind {
	case kindEntries:
		l.entries(key, line, v, node)
	case kindTexts, kindNetworks:
		if node.Kind != yaml.SequenceNode {
			wrong("")
			return
		}
		l.list(key, line, f, v, node)
	case kindProperties:
		l.properties(key, line, v, node)
	case kindFlag:
		on := strings.EqualFold(s, "true")
		if node.Kind != yaml.ScalarNode || !on && !strings.EqualFold(s, "false") {
			wrong("")
			return
		}
		v.SetBool(on)
	case kindNumber:
		n, err := strconv.Atoi(s)
		// 010 is 8 in YAML 1.1 and 10 in YAML 1.2: not a number to trust.
		if !isScalar || err != nil || strconv.Itoa(n) != s {
			wrong("")
			return
		}
		v.SetInt(int64(n))
	case kindDuration:
		d, err := ParseDuration(s)
		switch {
		case !isScalar || errors.Is(err, errDuration):
			wrong("")
		case err != nil:
			wrong(": " + err.Error())
		default:
			v.SetInt(int64(d))
		}
	default:
		if !isScalar {
			hint := ""
			if node.ShortTag() == "!!bool" {
				hint = ": put it in quotes if you mean the word"
			}
			wrong(hint)
			return
		}
		if f.path {
			s = l.abs(s)
		}
		v.SetString(s)
	}
}

// entries fills a list of structs.
func (l *loader) entries(key string, line int, v reflect.Value, node *yaml.Node) {
	if node.Kind != yaml.SequenceNode {
		l.add(line, key, "expected %s, found %s", want[kindEntries], found(node))
		return
	}
	v.Set(reflect.MakeSlice(v.Type(), len(node.Content), len(node.Content)))
	for i, e := range node.Content {
		at := item(key, i)
		l.c.origins[at] = origin{line: e.Line, from: fmt.Sprintf("%s:%d", l.c.file, e.Line)}
		if resolve(e).ShortTag() == "!!null" {
			l.add(e.Line, at, "expected %s, found nothing", want[kindSection])
			continue
		}
		l.section(at, v.Index(i), e)
	}
}

// list fills a list of texts or networks.
func (l *loader) list(key string, line int, f field, v reflect.Value, node *yaml.Node) {
	v.Set(reflect.MakeSlice(v.Type(), 0, len(node.Content)))
	for i, e := range node.Content {
		at := item(key, i)
		if line > 0 {
			l.c.origins[at] = origin{line: e.Line, from: fmt.Sprintf("%s:%d", l.c.file, e.Line)}
		}
		s, ok := scalar(e)
		if !ok {
			l.add(e.Line, at, "expected a text, found %s", found(e))
			continue
		}
		if f.kind == kindTexts {
			v.Set(reflect.Append(v, reflect.ValueOf(s)))
			continue
		}
		p, err := network(s)
		if err != nil {
			l.add(e.Line, at, "%v", err)
			continue
		}
		v.Set(reflect.Append(v, reflect.ValueOf(p)))
	}
}

// properties fills a list of properties.
func (l *loader) properties(key string, line int, v reflect.Value, node *yaml.Node) {
	if node.ShortTag() == "!!null" {
		return
	}
	if node.Kind != yaml.MappingNode {
		l.add(line, key, "expected %s, found %s", want[kindProperties], found(node))
		return
	}
	var all Properties
	lines := map[string]int{}
	var text string
	for i := 0; i+1 < len(node.Content); i += 2 {
		name := node.Content[i]
		at := join(key, printable(name.Value))
		if name.Kind != yaml.ScalarNode || name.ShortTag() == "!!merge" {
			l.add(name.Line, key, "expected the name of a property, found %s", found(name))
			continue
		}
		if first, twice := lines[name.Value]; twice {
			l.add(name.Line, at, "given twice, first in line %d: remove one", first)
			continue
		}
		switch value := resolve(node.Content[i+1]); {
		case value.Kind == yaml.ScalarNode && value.ShortTag() != "!!null":
			text = value.Value
		case value.Kind == yaml.SequenceNode:
			parts := make([]string, len(value.Content))
			for j, part := range value.Content {
				s, ok := scalar(part)
				if !ok || strings.Contains(s, ",") {
					l.add(part.Line, at, "expected texts without commas, found %s", found(part))
				}
				parts[j] = s
			}
			text = strings.Join(parts, ", ")
		case value.Kind == yaml.MappingNode:
			l.add(name.Line, at, "expected a value, found a section: write names in one piece, as push.privacy, and a section of its own without the indent")
			continue
		default:
			l.add(name.Line, at, "expected a value, found %s; for an empty one write ''", found(value))
			continue
		}
		lines[name.Value] = name.Line
		l.c.origins[at] = origin{line: name.Line, from: fmt.Sprintf("%s:%d", l.c.file, name.Line)}
		all = append(all, Property{name.Value, text})
	}
	v.Set(reflect.ValueOf(all))
}

// network reads a CIDR, or a single address.
func network(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" {
			return p, fmt.Errorf("%q is not a network such as 10.0.0.0/8 or 2001:db8::/32", printable(s))
		}
		p = netip.PrefixFrom(a, a.BitLen())
	}
	if p.Addr().Is4In6() {
		return p, fmt.Errorf("%s is an IPv4 network in IPv6 form: write it as IPv4", p)
	}
	if m := p.Masked(); m != p {
		return p, fmt.Errorf("%s has bits outside its mask: write %s, or %s for the one address", p, m, p.Addr())
	}
	return p, nil
}

// resolve follows an alias to the node it stands for.
func resolve(n *yaml.Node) *yaml.Node {
	if n != nil && n.Kind == yaml.AliasNode {
		return n.Alias
	}
	return n
}

// scalar returns the text of a scalar exactly as it was written, also when YAML would take it for a
// number: 0123 may be a password, and 12345E6789 a key id.
func scalar(n *yaml.Node) (string, bool) {
	n = resolve(n)
	ok := n.Kind == yaml.ScalarNode && slices.Contains([]string{"!!str", "!!int", "!!float", "!!timestamp"}, n.ShortTag())
	return n.Value, ok
}

// found describes what stands where something else was expected.
func found(n *yaml.Node) string {
	n = resolve(n)
	switch {
	case n.Kind == yaml.MappingNode:
		return "a section"
	case n.Kind == yaml.SequenceNode:
		return "a list"
	case n.ShortTag() == "!!null":
		return "nothing"
	default:
		return strconv.Quote(printable(n.Value))
	}
}

// printable cuts what is too long for a message, and replaces what is not fit for a terminal.
func printable(s string) string {
	const most = 60 // runes
	rs := []rune(s)
	if len(rs) > most {
		rs = append(rs[:most], '…')
	}
	for i, r := range rs {
		if !strconv.IsPrint(r) {
			rs[i] = '?'
		}
	}
	return string(rs)
}
