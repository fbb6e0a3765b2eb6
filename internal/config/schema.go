package config

import (
	"net/netip"
	"reflect"
	"strconv"
	"strings"
)

// kind is the form of a key's value.
type kind int

const (
	kindSection kind = iota // a struct: keys of its own
	kindEntries             // a slice of structs
	kindText
	kindFlag
	kindNumber
	kindDuration
	kindSecret
	kindTexts    // a slice of strings
	kindNetworks // a slice of netip.Prefix
	kindProperties
)

// want completes "expected …" in messages.
var want = map[kind]string{
	kindSection:  "a section with keys of its own",
	kindEntries:  "a list of entries, each with keys of its own",
	kindText:     "a text",
	kindFlag:     "true or false",
	kindNumber:   "a whole number",
	kindDuration: "a duration such as 90d, 24h or 500ms",
	kindSecret:   "a text",
	kindTexts:    "a list such as [a, b]",
	kindNetworks: "a list of networks such as [10.0.0.0/8]",

	kindProperties: "names of properties with their values",
}

// field is what the tags of one struct field say.
type field struct {
	name     string // the YAML key
	index    int    // in the struct
	kind     kind
	def      string   // the default, as YAML text
	one      []string // the allowed words; nil: any
	min, max string   // "" : no bound
	path     bool     // relative paths start at the configuration file
}

// fields lists the keys of a section, in the order of the struct.
func fields(t reflect.Type) []field {
	var fs []field
	for i := range t.NumField() {
		sf := t.Field(i)
		name := sf.Tag.Get("yaml")
		if name == "" {
			continue
		}
		fs = append(fs, field{
			name:  name,
			index: i,
			kind:  kindOf(sf.Type),
			def:   sf.Tag.Get("default"),
			one:   strings.Fields(sf.Tag.Get("one")),
			min:   sf.Tag.Get("min"),
			max:   sf.Tag.Get("max"),
			path:  sf.Tag.Get("is") == "path",
		})
	}
	return fs
}

func kindOf(t reflect.Type) kind {
	switch t {
	case reflect.TypeFor[Duration]():
		return kindDuration
	case reflect.TypeFor[Secret]():
		return kindSecret
	case reflect.TypeFor[[]string]():
		return kindTexts
	case reflect.TypeFor[[]netip.Prefix]():
		return kindNetworks
	case reflect.TypeFor[Properties]():
		return kindProperties
	}
	switch t.Kind() {
	case reflect.Bool:
		return kindFlag
	case reflect.Int:
		return kindNumber
	case reflect.Slice:
		return kindEntries
	case reflect.Struct:
		return kindSection
	default:
		return kindText
	}
}

// join appends a name to a dotted path.
func join(at, name string) string {
	if at == "" {
		return name
	}
	return at + "." + name
}

// item is the path of the i-th entry of the list at.
func item(at string, i int) string { return at + "[" + strconv.Itoa(i) + "]" }

// envName is the environment variable of the secret at: transports.apns.apps[0].key becomes
// POSTHORN_TRANSPORTS_APNS_APPS_0_KEY.
func envName(at string) string {
	return "POSTHORN_" + strings.ToUpper(strings.NewReplacer(".", "_", "[", "_", "]", "").Replace(at))
}

// walk visits every key that is not a section, in the order of the structs. An entries key is visited
// before the keys of its entries.
func walk(at string, v reflect.Value, visit func(key string, f field, v reflect.Value)) {
	for _, f := range fields(v.Type()) {
		key, fv := join(at, f.name), v.Field(f.index)
		if f.kind == kindSection {
			walk(key, fv, visit)
			continue
		}
		visit(key, f, fv)
		if f.kind == kindEntries {
			for i := range fv.Len() {
				walk(item(key, i), fv.Index(i), visit)
			}
		}
	}
}

// allKeys lists the path of every key, with [] for the entries of a list.
func allKeys(at string, t reflect.Type) []string {
	var keys []string
	for _, f := range fields(t) {
		key, ft := join(at, f.name), t.Field(f.index).Type
		keys = append(keys, key)
		switch f.kind {
		case kindSection:
			keys = append(keys, allKeys(key, ft)...)
		case kindEntries:
			keys = append(keys, allKeys(key+"[]", ft.Elem())...)
		case kindSecret:
			keys = append(keys, key+"_file")
		default:
		}
	}
	return keys
}
