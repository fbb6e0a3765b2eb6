package config

import (
	"fmt"
	"net/netip"
	"reflect"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"
)

// Setting is one key with its effective value.
type Setting struct {
	Key string `json:"key"`
	// Value is a string, an int, a bool, a []string, a map[string]string; "[redacted]" for a secret; nil for what is not
	// set.
	Value any `json:"value"`
	// Origin is as [Config.Origin] returns it.
	Origin string `json:"origin"`
}

// Settings lists every key, with secrets redacted, in the order of the documentation. An empty list of
// apps is listed itself; otherwise the keys of its entries are.
func (c *Config) Settings() []Setting {
	var all []Setting
	walk("", reflect.ValueOf(c).Elem(), func(key string, f field, v reflect.Value) {
		if f.kind == kindEntries && v.Len() > 0 {
			return
		}
		all = append(all, Setting{Key: key, Value: plainValue(v), Origin: c.Origin(key)})
	})
	return all
}

// plainValue reduces a value to what JSON and YAML know.
func plainValue(v reflect.Value) any {
	switch value := v.Interface().(type) {
	case Secret:
		if !value.IsSet() {
			return nil
		}
		return value.String()
	case Duration:
		return value.String()
	case []string:
		return append([]string{}, value...)
	case []netip.Prefix:
		list := []string{}
		for _, p := range value {
			list = append(list, p.String())
		}
		return list
	case int, bool, string:
		return value
	case Properties:
		all := map[string]string{}
		for _, p := range value {
			all[p.Name] = p.Value
		}
		return all
	default: // an empty list of entries
		return []string{}
	}
}

// RedactedYAML writes every key with its effective value, secrets redacted, and a comment that tells
// where it came from.
func (c *Config) RedactedYAML() ([]byte, error) {
	out, err := yaml.Dump(c.section("", reflect.ValueOf(c).Elem()), yaml.WithLineWidth(-1))
	if err != nil {
		return nil, fmt.Errorf("write configuration as YAML: %w", err)
	}
	return out, nil
}

// section turns the struct v, whose path is at, into a YAML mapping.
func (c *Config) section(at string, v reflect.Value) *yaml.Node {
	m := &yaml.Node{Kind: yaml.MappingNode}
	for _, f := range fields(v.Type()) {
		key, fv := join(at, f.name), v.Field(f.index)
		var value *yaml.Node
		switch {
		case f.kind == kindSection:
			value = c.section(key, fv)
		case f.kind == kindEntries && fv.Len() > 0:
			value = &yaml.Node{Kind: yaml.SequenceNode}
			for i := range fv.Len() {
				value.Content = append(value.Content, c.section(item(key, i), fv.Index(i)))
			}
		case f.kind == kindProperties && fv.Len() > 0:
			value = &yaml.Node{Kind: yaml.MappingNode}
			for _, p := range c.Properties {
				text := textNode(p.Value)
				text.LineComment = c.comment(join(key, printable(p.Name)))
				value.Content = append(value.Content, textNode(p.Name), text)
			}
		default:
			value = yamlNode(plainValue(fv))
			value.LineComment = c.comment(key)
		}
		m.Content = append(m.Content, textNode(f.name), value)
	}
	return m
}

// comment tells where the value of a key came from.
func (c *Config) comment(key string) string {
	return "# " + strings.ReplaceAll(c.Origin(key), "\n", " ")
}

func yamlNode(value any) *yaml.Node {
	switch value := value.(type) {
	case nil:
		return &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!null", Value: "null"}
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
	case map[string]string: // an empty one
		return &yaml.Node{Kind: yaml.MappingNode, Style: yaml.FlowStyle}
	default:
		return textNode(fmt.Sprint(value))
	}
}

func textNode(s string) *yaml.Node {
	n := &yaml.Node{}
	n.SetString(s)
	return n
}
