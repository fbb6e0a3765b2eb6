package api

import (
	"encoding"
	"encoding/json"
	"net/http"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// schemas are the named schemas of a document, made from Go types. A struct's fields are described by their json tag
// and by these, all optional:
//
//	doc:"what it is"  enum:"one,two"  format:"date-time"  example:"3@1"
//	need:"true"       must be in a POST that adds one
//
// In an answer every member is required that has no omitempty.
type schemas map[string]any

var (
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	described     = reflect.TypeFor[interface{ describes() any }]() // by a value of another type
)

// of is the schema of a value's type, as an answer; change is for requests that need no member at all.
func (s schemas) of(v any, change bool) any { return s.schema(reflect.TypeOf(v), kindAnswer, change) }

// request is the schema of a value's type as the body of a request.
func (s schemas) request(v any, method string) any {
	return s.schema(reflect.TypeOf(v), kindRequest, method == http.MethodPatch)
}

type schemaKind int

const (
	kindAnswer schemaKind = iota
	kindRequest
)

func (s schemas) schema(t reflect.Type, kind schemaKind, change bool) any {
	switch {
	case t == reflect.TypeFor[time.Time]():
		return object{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[account.Password](), t == reflect.TypeFor[tenant.Secret]():
		return object{"type": "string", "writeOnly": true}
	case t.Implements(described):
		return s.schema(reflect.TypeOf(reflect.Zero(t).Interface().(interface{ describes() any }).describes()), kind, change)
	case t == reflect.TypeFor[json.RawMessage](), t.Kind() == reflect.Interface:
		return object{}
	case t.Kind() == reflect.Pointer:
		return s.schema(t.Elem(), kind, change)
	case t.Implements(textMarshaler) && t.Kind() != reflect.String:
		return object{"type": "string"}
	case t.Implements(jsonMarshaler):
		return object{}
	}
	switch t.Kind() {
	case reflect.String:
		return object{"type": "string"}
	case reflect.Bool:
		return object{"type": "boolean"}
	case reflect.Int64, reflect.Uint64:
		return object{"type": "integer", "format": "int64"}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return object{"type": "integer"}
	case reflect.Float32, reflect.Float64:
		return object{"type": "number"}
	case reflect.Slice, reflect.Array:
		if t.Elem().Kind() == reflect.Uint8 {
			return object{"type": "string", "contentEncoding": "base64"}
		}
		list := object{"type": "array", "items": s.schema(t.Elem(), kind, change)}
		return list
	case reflect.Map:
		return object{"type": "object", "additionalProperties": s.schema(t.Elem(), kind, change)}
	case reflect.Struct:
		name := schemaName(t)
		if kind == kindRequest {
			name += map[bool]string{false: "Request", true: "Change"}[change]
		}
		if _, ok := s[name]; !ok {
			s[name] = object{} // before its fields, which may hold another
			s[name] = s.structure(t, kind, change)
		}
		return object{"$ref": "#/components/schemas/" + name}
	default:
	}
	panic("no schema for " + t.String()) // a type that nobody put in a request or an answer before
}

// schemaName is a type's name; List[Context] is ContextList.
func schemaName(t reflect.Type) string {
	name := t.Name()
	outer, inner, generic := strings.Cut(name, "[")
	if generic {
		inner = strings.TrimSuffix(inner, "]")
		inner = inner[strings.LastIndexAny(inner, "./")+1:]
		name = strings.TrimSuffix(inner, "View") + outer
	}
	if strings.HasSuffix(t.PkgPath(), "/onboard") {
		name = "Doctor" + name
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, "Request"), "View")
	return strings.ToUpper(name[:1]) + name[1:]
}

func (s schemas) structure(t reflect.Type, kind schemaKind, change bool) object {
	properties := object{}
	required := []string{}
	s.fields(t, kind, change, properties, &required)
	out := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		out["required"] = required
	}
	return out
}

func (s schemas) fields(t reflect.Type, kind schemaKind, change bool, properties object, required *[]string) {
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous && name == "" {
			s.fields(f.Type, kind, change, properties, required)
			continue
		}
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		p := s.schema(f.Type, kind, change)
		if o, ok := p.(object); ok {
			describeField(f, o)
		}
		properties[name] = p
		switch {
		case kind == kindAnswer && !strings.Contains(options, "omitempty") && !strings.Contains(options, "omitzero"):
			*required = append(*required, name)
		case kind == kindRequest && !change && f.Tag.Get("need") == "true":
			*required = append(*required, name)
		}
	}
}

// describeField adds what a field's tags say.
func describeField(f reflect.StructField, p object) {
	for _, key := range []string{"format", "pattern"} {
		if v := f.Tag.Get(key); v != "" {
			p[key] = v
		}
	}
	if v := f.Tag.Get("doc"); v != "" {
		p["description"] = v
	}
	if v := f.Tag.Get("enum"); v != "" {
		target := p
		if items, ok := p["items"].(object); ok {
			target = items
		}
		target["enum"] = strings.Split(v, ",")
	}
	if v := f.Tag.Get("example"); v != "" {
		switch f.Type.Kind() {
		case reflect.Int, reflect.Int64:
			if n, err := strconv.ParseInt(v, 10, 64); err == nil {
				p["examples"] = []any{n}
			}
		case reflect.Slice:
			p["examples"] = []any{strings.Split(v, ",")}
		default:
			p["examples"] = []any{v}
		}
	}
}
