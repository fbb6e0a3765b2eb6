package fake

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// fcmMessage is what the checks after the schema need to know.
type fcmMessage struct {
	token   string
	options map[string]string
	size    int // octets of keys and values that reach the device
}

// shape is the type of one field in the message resource.
type shape struct {
	kind   shapeKind
	enum   []string         // kindEnum
	fields map[string]shape // kindObject, by snake_case name
}

type shapeKind int

const (
	kindString shapeKind = iota
	kindBool
	kindNumber
	kindEnum
	kindObject
	kindStringMap // map<string, string>
	kindStruct    // google.protobuf.Struct: any object
	kindStrings   // repeated string
	kindDuration  // "3.5s"
	kindDurations
	kindTimestamp // RFC 3339
)

var (
	aString    = shape{kind: kindString}
	aBool      = shape{kind: kindBool}
	aNumber    = shape{kind: kindNumber}
	aStringMap = shape{kind: kindStringMap}
	aStruct    = shape{kind: kindStruct}
	aDuration  = shape{kind: kindDuration}
	strs       = shape{kind: kindStrings}
)

func anObject(fields map[string]shape) shape { return shape{kind: kindObject, fields: fields} }
func anEnum(words ...string) shape           { return shape{kind: kindEnum, enum: words} }

// sendRequest is the request of projects.messages.send in the HTTP v1 API, with the message resource.
var sendRequest = anObject(map[string]shape{
	"validate_only": aBool,
	"message": anObject(map[string]shape{
		"name":         aString,
		"data":         aStringMap,
		"notification": anObject(map[string]shape{"title": aString, "body": aString, "image": aString}),
		"android":      androidConfig,
		"webpush": anObject(map[string]shape{
			"headers": aStringMap, "data": aStringMap, "notification": aStruct,
			"fcm_options": anObject(map[string]shape{"link": aString, "analytics_label": aString}),
		}),
		"apns": anObject(map[string]shape{
			"headers": aStringMap, "payload": aStruct, "live_activity_token": aString,
			"fcm_options": anObject(map[string]shape{"analytics_label": aString, "image": aString}),
		}),
		"fcm_options": analytics,
		"token":       aString,
		"topic":       aString,
		"condition":   aString,
	}),
})

var analytics = anObject(map[string]shape{"analytics_label": aString})

var androidConfig = anObject(map[string]shape{
	"collapse_key":             aString,
	"priority":                 anEnum("NORMAL", "HIGH"),
	"ttl":                      aDuration,
	"restricted_package_name":  aString,
	"data":                     aStringMap,
	"fcm_options":              analytics,
	"direct_boot_ok":           aBool,
	"bandwidth_constrained_ok": aBool,
	"restricted_satellite_ok":  aBool,
	"notification":             androidNotification,
})

var androidNotification = anObject(map[string]shape{
	"title": aString, "body": aString, "icon": aString, "color": aString, "sound": aString, "tag": aString,
	"click_action": aString, "body_loc_key": aString, "body_loc_args": strs, "title_loc_key": aString,
	"title_loc_args": strs, "channel_id": aString, "ticker": aString, "sticky": aBool,
	"event_time": {kind: kindTimestamp}, "local_only": aBool,
	"notification_priority": anEnum("PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW", "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"),
	"default_sound":         aBool, "default_vibrate_timings": aBool, "default_light_settings": aBool,
	"vibrate_timings": {kind: kindDurations}, "visibility": anEnum("VISIBILITY_UNSPECIFIED", "PRIVATE", "PUBLIC", "SECRET"),
	"notification_count": aNumber, "image": aString, "bypass_proxy_notification": aBool,
	"proxy": anEnum("PROXY_UNSPECIFIED", "ALLOW", "DENY", "IF_PRIORITY_LOWERED"),
	"light_settings": anObject(map[string]shape{
		"color":             anObject(map[string]shape{"red": aNumber, "green": aNumber, "blue": aNumber, "alpha": aNumber}),
		"light_on_duration": aDuration, "light_off_duration": aDuration,
	}),
})

// readFCMMessage holds a request to the schema, then to the documented rules of its values.
func readFCMMessage(doc map[string]any) (fcmMessage, []violation) {
	var c schemaCheck
	root := c.object("", doc, sendRequest)
	if len(c.faults) > 0 {
		return fcmMessage{}, c.faults
	}
	message, ok := root["message"].(map[string]any)
	if !ok {
		c.fault("message", "Message is not set.")
		return fcmMessage{}, c.faults
	}
	if _, ok := message["name"]; ok {
		c.fault("message.name", "The name is set by the server.")
	}
	msg := fcmMessage{token: text(message, "token"), options: map[string]string{}}
	if msg.token == "" {
		c.fault("message.token", "Recipient of the message is not set.")
	}
	for _, other := range [...]string{"topic", "condition"} {
		if _, ok := message[other]; ok {
			c.fault("message."+other, "This fake sends to registration tokens only.")
		}
	}

	android, _ := message["android"].(map[string]any)
	for _, name := range [...]string{"collapse_key", "priority", "ttl", "restricted_package_name"} {
		if v := text(android, name); v != "" {
			msg.options[name] = v
		}
	}
	if ttl, ok := android["ttl"]; ok && !durationWithin(ttl.(string), maxFCMTTL) {
		c.fault("message.android.ttl", "Invalid ttl: must be 0 to 2419200 seconds.")
	}
	data := c.data("message.data", message["data"])
	maps.Copy(data, c.data("message.android.data", android["data"])) // overrides the general one
	for k, v := range data {
		msg.size += len(k) + len(v)
	}
	for _, part := range [...]any{message["notification"], android["notification"]} {
		fields, _ := part.(map[string]any)
		for _, v := range fields {
			s, _ := v.(string)
			msg.size += len(s)
		}
	}
	return msg, c.faults
}

// data checks the keys of a data map, whose values are strings by now.
func (c *schemaCheck) data(path string, v any) map[string]string {
	m, _ := v.(map[string]any)
	data := make(map[string]string, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if key == "" || key == "from" || key == "message_type" || strings.HasPrefix(key, "google.") || strings.HasPrefix(key, "gcm.") {
			c.fault(path, "Invalid data payload key: "+key)
		}
		data[key] = text(m, key)
	}
	return data
}

// schemaCheck walks a request along a shape, as Google's JSON reader does: fields may be written in
// snake_case or lowerCamelCase, null is the same as absent, unknown names are errors.
type schemaCheck struct {
	faults []violation
}

func (c *schemaCheck) fault(field, description string) {
	c.faults = append(c.faults, violation{field, description})
}

// object returns the fields by snake_case name, with objects in them treated likewise.
func (c *schemaCheck) object(path string, m map[string]any, s shape) map[string]any {
	out := make(map[string]any, len(m))
	for _, name := range slices.Sorted(maps.Keys(m)) {
		snake := snakeCase(name)
		sub, ok := s.fields[snake]
		if !ok {
			at := ""
			if path != "" {
				at = " at '" + path + "'"
			}
			c.fault(path, fmt.Sprintf("Invalid JSON payload received. Unknown name %q%s: Cannot find field.", name, at))
			continue
		}
		if m[name] == nil {
			continue
		}
		if _, twice := out[snake]; twice {
			c.fault(path, fmt.Sprintf("Invalid JSON payload received. Field %q is given twice.", name))
			continue
		}
		out[snake] = c.value(strings.TrimPrefix(path+"."+snake, "."), m[name], sub)
	}
	return out
}

var durationForm = regexp.MustCompile(`^[0-9]{1,12}(\.[0-9]{1,9})?s$`)

// value checks one field and returns it, objects with their names in snake_case.
func (c *schemaCheck) value(path string, v any, s shape) any {
	wrong := func(kind string) {
		raw, _ := json.Marshal(v) // came from JSON
		c.fault(path, fmt.Sprintf("Invalid value at '%s' (%s), %s", path, kind, raw))
	}
	switch s.kind {
	case kindString:
		if _, ok := v.(string); !ok {
			wrong("TYPE_STRING")
		}
	case kindBool:
		if _, ok := v.(bool); !ok {
			wrong("TYPE_BOOL")
		}
	case kindNumber:
		if _, ok := v.(json.Number); !ok {
			wrong("TYPE_FLOAT")
		}
	case kindEnum:
		word, ok := v.(string)
		if !ok || !slices.Contains(s.enum, strings.ToUpper(word)) { // Google's pages write "high", too
			wrong("TYPE_ENUM")
		}
	case kindDuration:
		if text, ok := v.(string); !ok || !durationForm.MatchString(text) {
			wrong("type.googleapis.com/google.protobuf.Duration")
		}
	case kindTimestamp:
		text, _ := v.(string)
		if _, err := time.Parse(time.RFC3339Nano, text); err != nil {
			wrong("type.googleapis.com/google.protobuf.Timestamp")
		}
	case kindObject:
		m, ok := v.(map[string]any)
		if !ok {
			wrong("object")
			return nil
		}
		return c.object(path, m, s)
	case kindStruct:
		if _, ok := v.(map[string]any); !ok {
			wrong("type.googleapis.com/google.protobuf.Struct")
		}
	case kindStringMap:
		c.stringMap(path, v, wrong)
	case kindStrings, kindDurations:
		list, ok := v.([]any)
		if !ok {
			wrong("list")
		}
		element := aString
		if s.kind == kindDurations {
			element = aDuration
		}
		for i, e := range list {
			c.value(fmt.Sprintf("%s[%d]", path, i), e, element)
		}
	}
	return v
}

func (c *schemaCheck) stringMap(path string, v any, wrong func(string)) {
	m, ok := v.(map[string]any)
	if !ok {
		wrong("map<string, string>")
		return
	}
	for i, key := range slices.Sorted(maps.Keys(m)) {
		c.value(fmt.Sprintf("%s[%d].value", path, i), m[key], aString)
	}
}

// snakeCase turns lowerCamelCase into snake_case and leaves the latter alone.
func snakeCase(name string) string {
	var b strings.Builder
	for _, c := range name {
		if 'A' <= c && c <= 'Z' {
			b.WriteByte('_')
			c += 'a' - 'A'
		}
		b.WriteRune(c)
	}
	return b.String()
}

// durationWithin expects durationForm.
func durationWithin(s string, limit time.Duration) bool {
	d, err := time.ParseDuration(s)
	return err == nil && d <= limit
}
