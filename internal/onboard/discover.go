package onboard

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outbound"
)

// What a Discovery found.
const (
	FoundPosthorn = "posthorn" // sign in there
	FoundMail     = "mail"     // mail servers, by which a Posthorn can serve the user
	FoundNothing  = "nothing"
)

// Discovery is what was found out from what somebody typed.
type Discovery struct {
	Understood Understood `json:"understood"`
	// Found is one of the Found words, Detail a sentence for people.
	Found  string `json:"found"`
	Detail string `json:"detail"`
	// Posthorn is the server to sign in at.
	Posthorn *PosthornServer `json:"posthorn,omitempty"`
	// JMAP is the URL of another JMAP server's session (RFC 8620 section 2).
	JMAP string `json:"jmap,omitempty"`
	// MailServers are those that answered as they should, the best of each protocol first.
	MailServers []MailServer `json:"mail_servers"`
	// Steps are what was tried, in this order, and what came of it.
	Steps []Step `json:"steps"`
}

// PosthornServer is a Posthorn that was found.
type PosthornServer struct {
	// Base is the origin to use from now on, API the base of its REST API.
	Base    string   `json:"base"`
	API     string   `json:"api"`
	Title   string   `json:"title"`
	Version string   `json:"version,omitempty"`
	SignIn  []string `json:"sign_in"`
	Contact string   `json:"contact,omitempty"`
}

// Step is one thing that was tried.
type Step struct {
	// Name is "posthorn", "jmap", "srv", "autoconfig", "mx" or "server"; Target a URL, a name in DNS or host:port.
	Name   string `json:"name"`
	Target string `json:"target"`
	State  State  `json:"state"`
	// Fault is why it failed, Detail a sentence for people.
	Fault  Fault  `json:"fault,omitempty"`
	Detail string `json:"detail"`
	Took   int64  `json:"took_ms"`
}

// Discoverer finds servers. It is safe for concurrent use, and every goroutine it starts has ended when it answers.
type Discoverer struct {
	// Guard makes all connections.
	Guard *outbound.Guard
	// Resolver is asked for SRV and MX records.
	Resolver *net.Resolver
	Now      func() time.Time

	ports ports // instead of the well-known ones, for tests
}

// ports are those of services for which DNS names none.
type ports struct{ https, imaps, imap, submissions, submission int }

const (
	// A discovery ends before the public listener's ReadTimeout of 15 s, which would cut it off.
	discoverTimeout = 13 * time.Second
	probeTimeout    = 5 * time.Second // one step
	maxCandidates   = 4               // servers asked of each protocol and source
)

// Discover finds out where somebody's mail is. Errors are *tenant.InvalidError: what goes wrong on the way is in the
// Steps. It asks, in this order and until it knows enough: the typed server itself, the domain's SRV records, its
// autoconfig documents, those of who receives its mail, and the names that such servers usually have.
func (d *Discoverer) Discover(ctx context.Context, input string) (Discovery, error) {
	u, err := understand(input)
	if err != nil {
		return Discovery{}, err
	}
	if d.ports.https != 0 && u.port == "" {
		u.Base = "https://" + authorityOf(u.host, strconv.Itoa(d.ports.https))
	}
	ctx, cancel := context.WithTimeout(ctx, discoverTimeout)
	defer cancel()
	s := &search{Discoverer: d, Discovery: Discovery{Understood: u, MailServers: []MailServer{}}}
	s.run(ctx)
	s.conclude()
	return s.Discovery, nil
}

// search is one Discover.
type search struct {
	*Discoverer
	Discovery
	disabled *Step // a Posthorn that is switched off for this host
}

func (s *search) run(ctx context.Context) {
	if s.origin(ctx, s.Understood.Base) {
		return
	}
	if _, err := netip.ParseAddr(s.Understood.host); err == nil || !strings.Contains(s.Understood.host, ".") {
		return // no domain, and so without records and autoconfig
	}
	if s.records(ctx) || s.complete() {
		return
	}
	for _, stage := range []func(context.Context){s.ownAutoconfig, s.exchangers, s.guesses} {
		if stage(ctx); s.complete() {
			return
		}
		if ctx.Err() != nil {
			s.Steps = append(s.Steps, Step{
				Name: "server", Target: s.Understood.Domain, State: Skipped, Fault: FaultOutOfTime, Detail: "there was no time left to look further",
			})
			return
		}
	}
}

// origin looks for a Posthorn at an origin, then for another JMAP server. It reports whether the search is over.
func (s *search) origin(ctx context.Context, base string) bool {
	found, step := s.posthorn(ctx, base)
	s.Steps = append(s.Steps, step)
	switch {
	case step.State == OK:
		s.Posthorn = found
		return true
	case step.Fault == FaultDisabled:
		s.disabled = &step
		return true
	case !answered(step.Fault):
		s.Steps = append(s.Steps, Step{Name: "jmap", Target: base + jmapPath, State: Skipped, Detail: "nothing answers there"})
		return false
	}
	session, step := s.jmap(ctx, base)
	s.Steps = append(s.Steps, step)
	if s.JMAP == "" {
		s.JMAP = session
	}
	return false
}

// answered tells faults of what was answered from those of reaching it.
func answered(f Fault) bool {
	return slices.Contains([]Fault{FaultStatus, FaultNotPosthorn, FaultBadDocument}, f)
}

// complete reports whether there is a server of each protocol.
func (s *search) complete() bool { return s.has("imap") && s.has("submission") }

func (s *search) has(protocol string) bool {
	return slices.ContainsFunc(s.MailServers, func(m MailServer) bool { return m.Protocol == protocol })
}

// check asks candidates for their greeting, all at once, and keeps those that are what they should be, of protocols
// that were missing.
func (s *search) check(ctx context.Context, candidates []MailServer) {
	count := map[string]int{}
	candidates = slices.DeleteFunc(slices.Clone(candidates), func(m MailServer) bool {
		count[m.Protocol]++
		return s.has(m.Protocol) || count[m.Protocol] > maxCandidates
	})
	for i, step := range each(candidates, func(m MailServer) Step { return s.greets(ctx, m) }) {
		s.Steps = append(s.Steps, step)
		if step.State == OK {
			s.MailServers = append(s.MailServers, candidates[i])
		}
	}
}

// each runs f for all of a short list at once.
func each[T, R any](all []T, f func(T) R) []R {
	results := make([]R, len(all))
	var working sync.WaitGroup
	for i, one := range all {
		working.Go(func() { results[i] = f(one) })
	}
	working.Wait()
	return results
}

// step makes one step within its time.
func (s *search) step(ctx context.Context, name, target string, try func(context.Context) (Fault, string)) Step {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	started := s.Now()
	fault, detail := try(ctx)
	step := Step{Name: name, Target: target, State: OK, Fault: fault, Detail: detail, Took: s.Now().Sub(started).Milliseconds()}
	switch {
	case fault == FaultNone:
		step.State = Skipped // there is nothing wrong with a domain that publishes nothing
	case fault != "":
		step.State = Failed
	}
	return step
}

// conclude says what came of it all.
func (s *search) conclude() {
	slices.SortStableFunc(s.MailServers, func(a, b MailServer) int { return strings.Compare(a.Protocol, b.Protocol) })
	u := s.Understood
	switch {
	case s.Posthorn != nil:
		s.Found, s.Detail = FoundPosthorn, "There is a Posthorn at "+s.Posthorn.Base+": sign in there."
	case s.disabled != nil:
		s.Found, s.Detail = FoundNothing, s.disabled.Detail
	case s.has("imap"):
		s.Found, s.Detail = FoundMail, "There is no Posthorn at "+u.host+", but its mail servers are known."
	default:
		s.Found, s.Detail = FoundNothing, s.nothing()
	}
}

// nothing says why nothing was found, by the step that a person can do most about.
func (s *search) nothing() string {
	u := s.Understood
	first := s.Steps[0]
	switch {
	case first.Fault == FaultNoSuchName && len(s.Steps) > 1 && !s.anyAnswer():
		return "Neither a server nor mail servers were found for " + u.host + ": is it spelt correctly?"
	case first.Fault != "" && first.Fault != FaultNotPosthorn:
		return "Nothing was found. " + u.host + ": " + first.Detail + "."
	}
	return "There is no Posthorn at " + u.host + ", and its mail servers were not found."
}

func (s *search) anyAnswer() bool {
	return slices.ContainsFunc(s.Steps, func(x Step) bool { return x.State == OK || answered(x.Fault) })
}
