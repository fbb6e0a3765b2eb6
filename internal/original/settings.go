package original

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// File is one file to write.
type File struct {
	Name    string // relative to the directory of the configuration
	Mode    fs.FileMode
	Content []byte
}

// ConfigFile is the name of the configuration among the files of a Plan.
const ConfigFile = "posthorn.yml"

// settings are the keys of our configuration that the original has a word on.
type settings struct {
	root  *yaml.Node
	files []File
}

func newSettings() *settings { return &settings{root: &yaml.Node{Kind: yaml.MappingNode}} }

// at returns the mapping of a section, made where it is missing.
func (s *settings) at(section string) *yaml.Node {
	m := s.root
	for name := range strings.SplitSeq(section, ".") {
		m = child(m, name, yaml.MappingNode)
	}
	return m
}

func child(m *yaml.Node, name string, kind yaml.Kind) *yaml.Node {
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			return m.Content[i+1]
		}
	}
	v := &yaml.Node{Kind: kind}
	m.Content = append(m.Content, textNode(name), v)
	return v
}

// set gives a key ("push.coalesce") a value, and a comment that says what it is from.
func (s *settings) set(key string, value any, from string) {
	m, name := s.root, key
	if i := strings.LastIndexByte(key, '.'); i >= 0 {
		m, name = s.at(key[:i]), key[i+1:]
	}
	put(m, name, value, from)
}

// property gives a property of the server scope a value; its name has dots.
func (s *settings) property(name, value, from string) { put(s.at("properties"), name, value, from) }

func put(m *yaml.Node, name string, value any, from string) {
	n := valueNode(value)
	if from != "" {
		n.LineComment = "# " + from
	}
	for i := 0; i+1 < len(m.Content); i += 2 {
		if m.Content[i].Value == name {
			m.Content[i+1] = n
			return
		}
	}
	m.Content = append(m.Content, textNode(name), n)
}

// entry adds an entry to a list ("transports.apns.apps") and returns it, to be filled with put.
func (s *settings) entry(list, comment string) *yaml.Node {
	i := strings.LastIndexByte(list, '.')
	l := child(s.at(list[:i]), list[i+1:], yaml.SequenceNode)
	m := &yaml.Node{Kind: yaml.MappingNode, HeadComment: "# " + comment}
	l.Content = append(l.Content, m)
	return m
}

// file adds a file. Those with secrets are for their owner only.
func (s *settings) file(name string, content []byte, mode fs.FileMode) string {
	s.files = append(s.files, File{Name: name, Mode: mode, Content: content})
	return name
}

func valueNode(value any) *yaml.Node {
	switch value := value.(type) {
	case bool:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!bool", Value: strconv.FormatBool(value)}
	case int:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!int", Value: strconv.Itoa(value)}
	case []string:
		list := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for _, s := range value {
			list.Content = append(list.Content, textNode(s))
		}
		return list
	default:
		return textNode(fmt.Sprint(value))
	}
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}

// render is the configuration file.
func (s *settings) render(head string) ([]byte, error) {
	var out []byte
	if len(s.root.Content) > 0 {
		var err error
		if out, err = yaml.Dump(s.root, yaml.WithLineWidth(-1)); err != nil {
			return nil, fmt.Errorf("write the configuration: %w", err)
		}
	}
	return append([]byte(head), out...), nil
}
