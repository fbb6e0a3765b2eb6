package subscription

import (
	"fmt"
	"slices"
	"sync"
	"time"
	_ "time/tzdata" // a machine without a zone database must know the users' zones too
)

// QuietHours are a device's times of silence.
type QuietHours struct {
	// TimeZone is an IANA name ("Europe/Berlin").
	TimeZone string `json:"time_zone"`
	// BreakThrough says whose mail alerts all the same. "" is BreakVIP.
	BreakThrough string   `json:"break_through,omitempty"`
	Windows      []Window `json:"windows"`
}

// What breaks through quiet hours.
const (
	BreakVIP  = "vip"
	BreakNone = "none"
)

// Window is a time of each of some days.
type Window struct {
	// Days are those that the window begins on, as "mon" to "sun"; none is every day.
	Days []string `json:"days,omitempty"`
	// From and To are times of the clock on the wall ("22:00"). A To that is not after From is of the next day.
	From string `json:"from"`
	To   string `json:"to"`
}

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"} // as time.Weekday counts

func (q *QuietHours) check() error {
	if _, err := zone(q.TimeZone); err != nil {
		return invalid("quiet_hours.time_zone", `must be the name of a time zone, such as "Europe/Berlin"`)
	}
	if b := q.BreakThrough; b != "" && b != BreakVIP && b != BreakNone {
		return invalid("quiet_hours.break_through", "must be vip or none")
	}
	if len(q.Windows) == 0 || len(q.Windows) > maxWindows {
		return invalid("quiet_hours.windows", fmt.Sprintf("must be 1 to %d", maxWindows))
	}
	for i, w := range q.Windows {
		at := func(field string) string { return fmt.Sprintf("quiet_hours.windows[%d].%s", i, field) }
		if from, ok := clock(w.From); !ok || from == 24*60 {
			return invalid(at("from"), `must be a time such as "22:00"`)
		}
		if _, ok := clock(w.To); !ok {
			return invalid(at("to"), `must be a time such as "07:00"`)
		}
		if len(w.Days) > len(weekdays) {
			return invalid(at("days"), "must be at most seven")
		}
		for j, d := range w.Days {
			if !slices.Contains(weekdays, d) {
				return invalid(fmt.Sprintf("%s[%d]", at("days"), j), "must be mon, tue, wed, thu, fri, sat or sun")
			}
		}
	}
	return nil
}

// zones keeps what LoadLocation parsed: a zone is asked for at each notification, and there are some six
// hundred of them.
var zones sync.Map // string -> *time.Location

func zone(name string) (*time.Location, error) {
	if l, ok := zones.Load(name); ok {
		return l.(*time.Location), nil
	}
	if name == "" || name == "Local" { // what LoadLocation takes beside names of zones
		return nil, fmt.Errorf("%q is no time zone", name)
	}
	l, err := time.LoadLocation(name)
	if err == nil {
		zones.Store(name, l)
	}
	return l, err
}

// clock reads "22:00" as minutes since midnight. "24:00" is the end of a day.
func clock(s string) (minutes int, ok bool) {
	if len(s) != 5 || s[2] != ':' {
		return 0, false
	}
	for _, i := range []int{0, 1, 3, 4} {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	h, m := int(s[0]-'0')*10+int(s[1]-'0'), int(s[3]-'0')*10+int(s[4]-'0')
	return 60*h + m, m < 60 && (h < 24 || h == 24 && m == 0)
}

// maxQuiet bounds how far ahead Until looks. Whoever is told so asks again then.
const maxQuiet = 8 * 24 * time.Hour

// Until is when the silence that holds at a time ends, over windows that adjoin; zero when there is none.
// Clocks that are put forward or back move neither end: both are times on the wall.
func (p *Policy) Until(now time.Time) time.Time {
	if p == nil || p.Quiet == nil {
		return time.Time{}
	}
	loc, err := zone(p.Quiet.TimeZone)
	if err != nil {
		return time.Time{} // a zone that has been abolished since: rather loud than silent for ever
	}
	end := now
	for end.Sub(now) < maxQuiet {
		next := end
		for _, w := range p.Quiet.Windows {
			if e := w.end(end.In(loc)); e.After(next) {
				next = e
			}
		}
		if next.Equal(end) {
			break
		}
		end = next
	}
	if end.Equal(now) {
		return time.Time{}
	}
	return end
}

// end is when the window that a time lies in ends; zero when it lies in none.
func (w Window) end(t time.Time) (end time.Time) {
	from, _ := clock(w.From)
	to, _ := clock(w.To)
	if to <= from {
		to += 24 * 60
	}
	y, m, d := t.Date()
	for day := d - 1; day <= d; day++ { // one that began yesterday may last until now
		wall := func(minutes int) time.Time { return time.Date(y, m, day, 0, minutes, 0, 0, t.Location()) }
		// Noon, for at midnight there may be no such time: some zones put their clocks forward then.
		weekday := weekdays[wall(12*60).Weekday()]
		if len(w.Days) > 0 && !slices.Contains(w.Days, weekday) {
			continue
		}
		if e := wall(to); !wall(from).After(t) && e.After(t) {
			end = e
		}
	}
	return end
}

// Breaks reports whether a VIP's mail alerts in quiet hours.
func (p *Policy) Breaks() bool {
	return p == nil || p.Quiet == nil || p.Quiet.BreakThrough != BreakNone
}
