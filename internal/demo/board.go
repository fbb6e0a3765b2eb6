package demo

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// The hops of a mail on its way to the phone, in their order.
const (
	hopMail   = "mail"   // the mail server has taken the mail
	hopNotify = "notify" // it sends the PUT to Posthorn
	hopAnswer = "answer" // Posthorn has answered: the event is durable
	hopPush   = "push"   // the push service has Posthorn's encrypted message
	hopPhone  = "phone"  // the phone has decrypted it
)

// maxJourneys is how many mails the board remembers.
const maxJourneys = 30

// journey is one mail's way. Times are measured from Accepted.
type journey struct {
	ID          int        `json:"id"`
	Via         string     `json:"via,omitempty"` // "SMTP" or "LMTP"; "" when a push came without a mail
	From        string     `json:"from"`
	Subject     string     `json:"subject"`
	UIDValidity uint32     `json:"uidvalidity"`
	UID         uint32     `json:"uid"`
	Unseen      uint32     `json:"unseen"`
	Accepted    time.Time  `json:"accepted"`
	Hops        []hop      `json:"hops"`
	Shown       *shownPush `json:"shown,omitempty"`
	// Covered: a push for a newer mail came instead; Posthorn sends only the newest state of a device.
	Covered bool `json:"covered,omitempty"`
	// Problem is why the journey ended early.
	Problem string `json:"problem,omitempty"`

	rev int
}

// hop is one hop's name and when it happened.
type hop struct {
	Name string `json:"name"`
	// AtMicros is the time since the mail was accepted, in microseconds.
	AtMicros int64  `json:"at_us"`
	Note     string `json:"note,omitempty"`
}

// shownPush is the notification that the phone decrypted.
type shownPush struct {
	Title string `json:"title"`
	Body  string `json:"body"`
	Badge string `json:"badge,omitempty"`

	data pushData
}

// pushData is notification.data of Posthorn's message.
type pushData struct {
	User        string  `json:"user"`
	Folder      string  `json:"folder"`
	UIDValidity uint32  `json:"uidvalidity"`
	UID         uint32  `json:"uid"`
	Unseen      *uint32 `json:"unseen"`
	Topic       string  `json:"topic"`
}

// board records the journeys. It is safe for concurrent use.
type board struct {
	mu       sync.Mutex
	journeys []*journey // oldest first
	count    int
	rev      int           // counts changes
	changed  chan struct{} // closed with the next change
}

func newBoard() *board { return &board{changed: make(chan struct{})} }

// since returns copies of the journeys that changed after revision rev, oldest first, the present
// revision, and a channel that is closed with the next change.
func (b *board) since(rev int) ([]journey, int, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var news []journey
	for _, j := range b.journeys {
		if j.rev > rev {
			c := *j
			c.Hops = slices.Clone(j.Hops)
			news = append(news, c)
		}
	}
	return news, b.rev, b.changed
}

// accepted begins a journey.
func (b *board) accepted(n notification, lmtp bool, at time.Time) {
	j := &journey{Via: "SMTP", UIDValidity: n.UIDValidity, UID: n.UID, Unseen: n.Unseen, Accepted: at}
	if lmtp {
		j.Via = "LMTP"
	}
	if n.From != nil {
		j.From = decodeHeader(*n.From)
	}
	if n.Subject != nil {
		j.Subject = decodeHeader(*n.Subject)
	}
	j.Hops = []hop{{Name: hopMail}}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.add(j)
}

// hop adds a hop to the journey of a mail.
func (b *board) hop(uidvalidity, uid uint32, name string, at time.Time, note string) {
	b.change(uidvalidity, uid, func(j *journey) {
		j.Hops = append(j.Hops, hop{Name: name, AtMicros: at.Sub(j.Accepted).Microseconds(), Note: note})
		// The push may overtake the answer that it follows from: another connection carries it.
		slices.SortStableFunc(j.Hops, func(a, b hop) int { return hopOrder[a.Name] - hopOrder[b.Name] })
	})
}

var hopOrder = map[string]int{hopMail: 0, hopNotify: 1, hopAnswer: 2, hopPush: 3, hopPhone: 4}

// fail ends a journey with a problem.
func (b *board) fail(uidvalidity, uid uint32, problem string) {
	b.change(uidvalidity, uid, func(j *journey) { j.Problem = problem })
}

// pushed records what the phone decrypted: sent is when the push service had the message, shown when
// the phone could show it.
func (b *board) pushed(p shownPush, sent, shown time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	j := b.find(p.data.UIDValidity, p.data.UID)
	if j == nil || j.Shown != nil { // "posthorn push test", say
		j = &journey{Accepted: sent}
		b.add(j)
	}
	j.Shown = &p
	j.Hops = append(j.Hops,
		hop{Name: hopPush, AtMicros: sent.Sub(j.Accepted).Microseconds()},
		hop{Name: hopPhone, AtMicros: shown.Sub(j.Accepted).Microseconds()})
	for _, older := range b.journeys {
		if j.UID != 0 && older.UIDValidity == j.UIDValidity && older.UID < j.UID && older.Shown == nil && older.Problem == "" && !older.Covered {
			older.Covered = true
			b.touch(older)
		}
	}
	b.touch(j)
}

func (b *board) change(uidvalidity, uid uint32, f func(*journey)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if j := b.find(uidvalidity, uid); j != nil {
		f(j)
		b.touch(j)
	}
}

func (b *board) find(uidvalidity, uid uint32) *journey {
	for _, j := range b.journeys {
		if uid != 0 && j.UIDValidity == uidvalidity && j.UID == uid {
			return j
		}
	}
	return nil
}

func (b *board) add(j *journey) {
	b.count++
	j.ID = b.count
	b.journeys = append(b.journeys, j)
	if len(b.journeys) > maxJourneys {
		b.journeys = slices.Delete(b.journeys, 0, 1)
	}
	b.touch(j)
}

// touch notes a change of j and wakes everybody who waits for one.
func (b *board) touch(j *journey) {
	b.rev++
	j.rev = b.rev
	close(b.changed)
	b.changed = make(chan struct{})
}

// at returns when a hop happened.
func (j *journey) at(name string) (time.Duration, bool) {
	for _, h := range j.Hops {
		if h.Name == name {
			return time.Duration(h.AtMicros) * time.Microsecond, true
		}
	}
	return 0, false
}

// millis writes a time in milliseconds, with decimals where they say something.
func millis(d time.Duration) string {
	ms := float64(d) / float64(time.Millisecond)
	switch {
	case ms >= 10:
		return fmt.Sprintf("%.0f ms", ms)
	case ms >= 1:
		return fmt.Sprintf("%.1f ms", ms)
	default:
		return fmt.Sprintf("%.2f ms", ms)
	}
}
