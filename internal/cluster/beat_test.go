package cluster

import (
	"strings"
	"testing"
)

func FuzzParseBeat(f *testing.F) {
	f.Add(other("a").encode())
	f.Add([]byte(`{"id":"a","process":"b","since":-1,"new":[1]}`))
	f.Add([]byte(`{"id":"a\n","process":"b"}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := parseBeat(data)
		if err != nil {
			return
		}
		if b.ID == "" || b.Process == "" || strings.ContainsAny(b.ID+b.Process+b.Name+b.Version, "\n\x1b") {
			t.Errorf("%+v", b)
		}
		if again, err := parseBeat(b.encode()); err != nil || again != b {
			t.Errorf("%+v, %v, want %+v", again, err, b)
		}
		_ = b.member()
	})
}

func TestParseBeatRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"empty":        "",
		"no id":        `{"process":"p"}`,
		"no process":   `{"id":"a"}`,
		"line feed":    `{"id":"a\n","process":"p"}`,
		"long":         `{"id":"` + strings.Repeat("x", maxField+1) + `","process":"p"}`,
		"large":        `{"id":"a","process":"p","x":"` + strings.Repeat("x", maxBeat) + `"}`,
		"another type": `{"id":1,"process":"p"}`,
	} {
		if _, err := parseBeat([]byte(text)); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func TestFits(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want bool
	}{
		{"", "", true},
		{"k", "k", true},
		{"k", "l", false},
		{"k", "", false},
		{"new,old", "old", false}, // what it seals, the other cannot open
		{"new,old", "old,new", true},
		{"new,old", "new", true},
		{"a,b", "b,c", false},
		{"ab", "a", false},
	} {
		if fits(tc.a, tc.b) != tc.want || fits(tc.b, tc.a) != tc.want {
			t.Errorf("%q and %q: not %v", tc.a, tc.b, tc.want)
		}
	}
}
