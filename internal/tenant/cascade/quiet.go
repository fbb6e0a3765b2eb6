package cascade

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // a machine without a zone database must know the users' zones too
)

// Quiet is times of silence. The zero value is none.
type Quiet struct {
	TimeZone string
	Windows  []QuietWindow
}

// QuietWindow is a time of each of some days; no Days is every day. A To that is not after From is of the next day.
type QuietWindow struct {
	Days     []string
	From, To string // "22:00"
}

const maxWindows = 21

var weekdays = []string{"mon", "tue", "wed", "thu", "fri", "sat", "sun"}

var errQuiet = errors.New(`must be a time zone and times, such as "Europe/Berlin 22:00-07:00" or "Europe/Berlin mon,fri 22:00-07:00; sat 23:30-09:00"`)

func parseQuiet(text string) (q Quiet, err error) {
	if text == "" {
		return q, nil
	}
	zone, rest, ok := strings.Cut(text, " ")
	if !ok {
		return q, errQuiet
	}
	if _, err := time.LoadLocation(zone); err != nil || zone == "Local" {
		return q, fmt.Errorf(`%q is no time zone: write its name, such as "Europe/Berlin", before the times`, zone)
	}
	q.TimeZone = zone
	for part := range strings.SplitSeq(rest, ";") {
		var w QuietWindow
		words := strings.Fields(part)
		if len(words) == 2 {
			w.Days = strings.Split(words[0], ",")
			for _, d := range w.Days {
				if !slices.Contains(weekdays, d) {
					return Quiet{}, fmt.Errorf("%q is no day: the days are %s", d, strings.Join(weekdays, ","))
				}
			}
			words = words[1:]
		}
		if len(words) != 1 || len(w.Days) > len(weekdays) {
			return Quiet{}, errQuiet
		}
		w.From, w.To, _ = strings.Cut(words[0], "-")
		if !clock(w.From) || w.From == midnight || !clock(w.To) && w.To != midnight {
			return Quiet{}, errQuiet
		}
		q.Windows = append(q.Windows, w)
	}
	if len(q.Windows) > maxWindows {
		return Quiet{}, fmt.Errorf("must be at most %d times", maxWindows)
	}
	return q, nil
}

// midnight is the end of a day.
const midnight = "24:00"

// clock accepts "00:00" to "23:59".
func clock(s string) bool {
	_, err := time.Parse("15:04", s)
	return err == nil && len(s) == 5
}
