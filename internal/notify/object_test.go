package notify

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"testing"
	"unicode/utf8"
)

// FuzzObject: encoding/json says of each text what it says, and finds the same members in it.
func FuzzObject(f *testing.F) {
	for _, seed := range []string{
		`{}`, ` { } `, `{"a":1}`, `{"a":1,"a":{"b":[1,"}",{"c":"\\\""}]}}`, "\n{\"\\u0061\\n\" :\t\"\\ud800\" , \"b\":null}\r\n", `{"a":-1.5e3}{`, `{"a":1} x`,
		`null`, `[{"a":1}]`, `"{"`, `{"a" 1}`, `{"a":tru}`, ``, "\xff", `{"a":"` + "\xc3" + `"}`, `{"":[]}`, `{"a":[[]],"b":{}}`, "\v{}",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		got, p := readObject(body)
		d := json.NewDecoder(bytes.NewReader(body))
		var want map[string]json.RawMessage
		err := d.Decode(&want)
		reason := ""
		if !utf8.Valid(body) {
			reason = "bad_utf8"
		} else if err != nil || want == nil {
			reason = "not_json"
		} else if _, err := d.Token(); !errors.Is(err, io.EOF) {
			reason = "trailing_data"
		}
		if reason != "" {
			if p == nil || p.Reason != reason {
				t.Fatalf("%q: problem %+v, want %s", body, p, reason)
			}
			return
		}
		if p != nil {
			t.Fatalf("%q: problem %+v", body, p)
		}
		seen := map[string]bool{}
		for _, m := range got {
			seen[m.key] = true
			if value := got.get(m.key); !bytes.Equal(value, want[m.key]) {
				t.Fatalf("%q: %q is %q, want %q", body, m.key, value, want[m.key])
			}
		}
		if len(seen) != len(want) {
			t.Fatalf("%q: %d members, want %d", body, len(seen), len(want))
		}
		for key, raw := range want {
			var s string
			ok := raw[0] == '"' && json.Unmarshal(raw, &s) == nil
			if gotText, gotOK := text(got.get(key)); gotText != s || gotOK != ok {
				t.Fatalf("%q: text %q %v, want %q %v", raw, gotText, gotOK, s, ok)
			}
		}
	})
}
