package config

import (
	"errors"
	"math"
	"strconv"
	"strings"
	"time"
)

// Duration is a span of time written like "90d", "24h", "1h30m" or "500ms". A day has 24 hours.
// Convert it with time.Duration(d).
type Duration time.Duration

const day = 24 * time.Hour

// units in the order in which String uses them.
var units = []struct {
	name string
	size time.Duration
}{{"d", day}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second}, {"ms", time.Millisecond}}

var errDuration = errors.New("not a duration such as 90d, 24h or 500ms")

// ParseDuration reads a Duration. A number without a unit, a negative one and a fraction are errors.
func ParseDuration(s string) (Duration, error) {
	if s == "" {
		return 0, errDuration
	}
	var sum time.Duration
	for s != "" {
		digits := len(s) - len(strings.TrimLeft(s, "0123456789"))
		n, err := strconv.ParseInt(s[:digits], 10, 64)
		if errors.Is(err, strconv.ErrRange) {
			return 0, errors.New("too long")
		}
		if err != nil {
			return 0, errDuration
		}
		s = s[digits:]
		letters := strings.IndexAny(s, "0123456789")
		if letters < 0 {
			letters = len(s)
		}
		size := time.Duration(0)
		for _, u := range units {
			if u.name == s[:letters] {
				size = u.size
			}
		}
		if size == 0 {
			if letters == 0 {
				return 0, errors.New("the unit is missing (d, h, m, s or ms)")
			}
			return 0, errDuration
		}
		s = s[letters:]
		if n > int64((math.MaxInt64-sum)/size) {
			return 0, errors.New("too long")
		}
		sum += time.Duration(n) * size
	}
	return Duration(sum), nil
}

// String writes d so that ParseDuration reads the same, save what is shorter than a millisecond.
func (d Duration) String() string {
	rest := time.Duration(d)
	if rest < 0 {
		return rest.String()
	}
	var b strings.Builder
	for _, u := range units {
		if n := rest / u.size; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10) + u.name)
			rest %= u.size
		}
	}
	if b.Len() == 0 {
		return "0s"
	}
	return b.String()
}
