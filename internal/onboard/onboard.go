// Package onboard examines what Posthorn needs to do its work, and says what to do about what it finds: the
// machine and the settings of the server itself, and a mail host from end to end, as the server sees it.
//
// It changes nothing that stays, but for the test mail that it is asked to deliver: the annotation that it
// writes to see whether it can is removed again. It looks at one moment; what goes wrong over time is for the metrics.
//
// Concurrency: a Doctor may be asked by several goroutines. Every goroutine it starts has ended when it answers.
package onboard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/posthorn-mail/posthorn/internal/account"
	"github.com/posthorn-mail/posthorn/internal/outbound"
	"github.com/posthorn-mail/posthorn/internal/push"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// State is what a check found.
type State string

// The states.
const (
	OK      State = "ok"
	Warning State = "warning" // works, but not well, or not for long
	Failed  State = "failed"
	Skipped State = "skipped" // not looked at, or of no importance here
)

// Check is one question, and its answer.
type Check struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Detail says what is known, Do what to do when that is not well.
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"`
	// Took is how long it took, in milliseconds.
	Took int64 `json:"took_ms"`
}

// Report is the checks of one subject, in their order. A check that needs one before it that failed is not there.
type Report struct {
	// MailHost or Provider is the subject; both are empty for the server itself.
	MailHost string  `json:"mailhost,omitempty"`
	Provider string  `json:"provider,omitempty"`
	Address  string  `json:"address"`
	Checks   []Check `json:"checks"`
}

// Request is what to examine.
type Request struct {
	// MailHosts are the names of some; none for all.
	MailHosts []string
	// Login and Password sign in; else the user does, with what the server has for him.
	Login    string
	Password account.Password
	User     tenant.UserID
	// NotifyURL is what the mail server calls, with its credential.
	NotifyURL string
	// LMTP or SMTP is the host:port to deliver a test mail to, To its recipient; the login when empty.
	LMTP, SMTP, To string
}

// Doctor examines. Every field is needed.
type Doctor struct {
	Tenants  *tenant.Store
	Accounts *account.Service
	// Transports are the ways to devices, with their credentials.
	Transports []push.Transport
	// Node is the server's own name.
	Node string
	// NotifyLogin and NotifyPassword are the installation's own notify credential.
	NotifyLogin    string
	NotifyPassword account.Password
	// Ping asks the database, Listeners how many listeners are in which state.
	Ping      func(context.Context) error
	Listeners func(context.Context) (map[string]int, error)
	// MailNotify: this server receives reports by UDP.
	MailNotify bool
	// Bus says what is wrong with the connection to the bus, Nodes who is heard on it.
	Bus   func() error
	Nodes func() []Node
	// Told returns the UIDNEXT up to which a user was told of his INBOX; false when he never was.
	Told func(context.Context, tenant.UserID) (uint32, bool, error)
	// Devices counts a user's subscribed devices.
	Devices func(context.Context, tenant.UserID) (int, error)
	// Guard makes the connections to what a provider names, PublicURL is the base of one that names none.
	Guard     *outbound.Guard
	PublicURL string
	// Probes opens a provider's push credentials until closed is called. TestPush tells the devices of a user.
	Probes   func(tenant.Provider) (all []PushProbe, closed func())
	TestPush func(context.Context, tenant.UserID) ([]PushAnswer, error)
	Now      func() time.Time

	patience time.Duration // instead of lagTimeout, for tests
}

// Node is a server of the cluster.
type Node struct {
	Name string
	// Owns: it takes permanent listeners.
	Owns bool
	// Ignored is why it is no member, although it is heard; empty for a member.
	Ignored string
}

const (
	// examTimeout bounds the examination of one subject, lagTimeout the wait for a test mail within it. The
	// admin socket has 60 s for an answer.
	examTimeout = 50 * time.Second
	lagTimeout  = 20 * time.Second
	// stepTimeout bounds one step of it, signInTimeout a sign-in: Dovecot delays it after wrong ones.
	stepTimeout   = 10 * time.Second
	signInTimeout = 20 * time.Second
	// atOnce bounds the mail hosts that are examined at the same time.
	atOnce = 16
)

// Examine examines the server and mail hosts. Errors are those of a request that cannot be right, and of the store.
func (d *Doctor) Examine(ctx context.Context, req Request) ([]Report, error) {
	hosts, user, err := d.subjects(ctx, req)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, examTimeout)
	defer cancel()
	reports := make([]Report, 1+len(hosts))
	var working sync.WaitGroup
	defer working.Wait()
	turn := make(chan struct{}, atOnce)
	for i, h := range hosts {
		working.Go(func() {
			turn <- struct{}{}
			defer func() { <-turn }()
			reports[i+1] = d.mailHost(ctx, req, h, user)
		})
	}
	reports[0] = d.server(ctx)
	working.Wait()
	return reports, nil
}

// subjects finds the mail hosts and the user, if one is named.
func (d *Doctor) subjects(ctx context.Context, req Request) (hosts []tenant.MailHost, user *tenant.User, err error) {
	names := req.MailHosts
	if req.User != (tenant.UserID{}) {
		u, err := d.Tenants.User(ctx, req.User)
		if err != nil {
			return nil, nil, err
		}
		user = &u
		if len(names) == 0 {
			names = []string{u.MailHost}
		}
		if len(names) != 1 || names[0] != u.MailHost {
			return nil, nil, &tenant.InvalidError{Field: "user", Problem: fmt.Sprintf("lives on mail host %q: name that one alone", u.MailHost)}
		}
	}
	if len(names) == 0 {
		all, err := d.Tenants.MailHosts(ctx)
		if err != nil {
			return nil, nil, err
		}
		for _, h := range all {
			names = append(names, h.Name)
		}
	}
	for _, name := range names {
		h, err := d.Tenants.MailHost(ctx, name) // with its secrets, which a listing has not
		if err != nil {
			return nil, nil, err
		}
		hosts = append(hosts, h)
	}
	one := len(hosts) == 1
	switch {
	case req.Login != "" && !one:
		return nil, nil, &tenant.InvalidError{Field: "login", Problem: "belongs to one mail host: name that"}
	case req.Login != "" && user != nil:
		return nil, nil, &tenant.InvalidError{Field: "login", Problem: "say a login or a user, not both"}
	case (req.NotifyURL != "" || req.LMTP != "" || req.SMTP != "") && !one:
		return nil, nil, &tenant.InvalidError{Field: "mailhosts", Problem: "name the one mail host that this is for"}
	case req.LMTP != "" && req.SMTP != "":
		return nil, nil, &tenant.InvalidError{Field: "deliver_lmtp", Problem: "deliver by LMTP or by SMTP, not both"}
	}
	return hosts, user, nil
}

// run makes one check, and reports whether what depends on it can be looked at.
func (r *Report) run(ctx context.Context, name string, check func(context.Context) Check) bool {
	timeout := stepTimeout
	if name == "sign_in" {
		timeout = signInTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	start := time.Now()
	c := check(ctx)
	c.Name, c.Took = name, time.Since(start).Milliseconds()
	r.Checks = append(r.Checks, c)
	return c.State == OK || c.State == Warning
}

// All reports whether nothing has failed.
func (r Report) All() bool {
	for _, c := range r.Checks {
		if c.State == Failed {
			return false
		}
	}
	return true
}

func ok(format string, args ...any) Check {
	return Check{State: OK, Detail: fmt.Sprintf(format, args...)}
}

func skipped(format string, args ...any) Check {
	return Check{State: Skipped, Detail: fmt.Sprintf(format, args...)}
}

func failed(do, format string, args ...any) Check {
	return Check{State: Failed, Do: do, Detail: fmt.Sprintf(format, args...)}
}

func warning(do, format string, args ...any) Check {
	return Check{State: Warning, Do: do, Detail: fmt.Sprintf(format, args...)}
}

// why is an error in a few words; the end of a step's time is said as what it was.
func why(ctx context.Context, err error) string {
	if errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
		return "no answer in time"
	}
	return err.Error()
}

// in is a time as people say it.
func in(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond)) }
