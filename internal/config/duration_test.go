package config

import (
	"testing"
	"time"
)

func TestParseDuration(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"90d":           90 * 24 * time.Hour,
		"24h":           24 * time.Hour,
		"1h30m":         90 * time.Minute,
		"500ms":         500 * time.Millisecond,
		"1d2h3m4s5ms":   26*time.Hour + 3*time.Minute + 4*time.Second + 5*time.Millisecond,
		"0s":            0,
		"106751d23h47m": 106751*24*time.Hour + 23*time.Hour + 47*time.Minute,
	} {
		if got, err := ParseDuration(text); err != nil || time.Duration(got) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "90", "d", "-1d", "+1d", "1.5h", "1 d", "1D", "2w", "106752d", "106751d24h", "99999999999999999999s", "1h30", "1dd", "1us"} {
		if got, err := ParseDuration(text); err == nil {
			t.Errorf("%q: read as %v", text, got)
		}
	}
}

func TestDurationString(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0:                             "0s",
		90 * 24 * time.Hour:           "90d",
		36 * time.Hour:                "1d12h",
		1500 * time.Millisecond:       "1s500ms",
		15 * time.Minute:              "15m",
		-time.Second:                  "-1s",
		time.Hour + 3*time.Nanosecond: "1h",
	} {
		if got := Duration(d).String(); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
}

func FuzzParseDuration(f *testing.F) {
	for _, text := range []string{"90d", "1h30m", "9223372036854ms", "1d1d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		if d < 0 {
			t.Fatalf("%q is negative: %d", text, d)
		}
		if again, err := ParseDuration(d.String()); err != nil || again != d {
			t.Fatalf("%q -> %q -> %v, %v", text, d, again, err)
		}
	})
}
