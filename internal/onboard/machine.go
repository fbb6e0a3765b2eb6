package onboard

import (
	"context"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

// server examines this process and its machine.
func (d *Doctor) server(ctx context.Context) Report {
	r := Report{Address: d.Node}
	r.run(ctx, "database", d.database)
	r.run(ctx, "bus", d.bus)
	r.run(ctx, "clock", clock)
	r.run(ctx, "listeners", d.listeners)
	r.run(ctx, "open_files", d.openFiles)
	for _, t := range d.Transports {
		for _, c := range t.Watch() {
			r.run(ctx, "credential", func(context.Context) Check { return d.credential(t.Name(), c.Name, c.Expires) })
		}
	}
	return r
}

// slowDatabase is when a delivery at the mail server notices how long the database takes.
const slowDatabase = 100 * time.Millisecond

func (d *Doctor) database(ctx context.Context) Check {
	start := time.Now()
	if err := d.Ping(ctx); err != nil {
		return failed("is it up, and database.url right? the log says more", "does not answer: %s", why(ctx, err))
	}
	took := time.Since(start)
	if took > slowDatabase {
		return warning("deliveries wait for it: look at the disk and the load", "answers in %s", in(took))
	}
	return ok("answers in %s", in(took))
}

// bus looks who is in the cluster.
func (d *Doctor) bus(context.Context) Check {
	if err := d.Bus(); err != nil {
		return failed("see bus in the configuration; the log says since when", "not connected: %v", err)
	}
	var names []string
	owners := 0
	for _, n := range d.Nodes() {
		if n.Ignored != "" {
			return failed("posthorn cluster nodes shows all", "node %s is ignored: %s", n.Name, n.Ignored)
		}
		names = append(names, n.Name)
		if n.Owns {
			owners++
		}
	}
	slices.Sort(names)
	if owners == 0 {
		return warning("set listen.allow_permanent_push on one, or end its draining", "no node takes permanent listeners: %s", strings.Join(names, ", "))
	}
	return ok("nodes: %s; taking permanent listeners: %d", strings.Join(names, ", "), owners)
}

// clock asks the kernel whether anything keeps its clock right: providers refuse tokens with a wrong time, and
// the nodes of a cluster compare theirs.
func clock(context.Context) Check {
	var t unix.Timex
	state, err := unix.Adjtimex(&t) // sets nothing
	switch {
	case err != nil:
		return skipped("the kernel does not tell whether the clock is kept right: %v", err)
	case state == unix.TIME_ERROR || t.Status&unix.STA_UNSYNC != 0:
		return warning("run chrony or systemd-timesyncd (in a container, on its host)", "nothing keeps the clock of this machine right, as far as the kernel knows")
	}
	return ok("kept right, within %s", (time.Duration(t.Maxerror) * time.Microsecond).Round(time.Millisecond))
}

// wellStates are those of listeners with which nothing is wrong.
var wellStates = []string{"registered", "listening"}

func (d *Doctor) listeners(ctx context.Context) Check {
	count, err := d.Listeners(ctx)
	if err != nil {
		return failed("see database", "cannot be counted: %s", why(ctx, err))
	}
	var parts []string
	troubled := 0
	for _, state := range slices.Sorted(maps.Keys(count)) {
		if count[state] == 0 {
			continue
		}
		parts = append(parts, fmt.Sprintf("%d %s", count[state], state))
		if !slices.Contains(wellStates, state) {
			troubled += count[state]
		}
	}
	switch {
	case len(parts) == 0:
		return skipped("nobody has a subscribed device")
	case troubled > 0:
		return warning("posthorn push users says why, for each", "%s", strings.Join(parts, ", "))
	}
	return ok("%s", strings.Join(parts, ", "))
}

// otherFiles is what the server opens beside one connection for each listener: the database, devices, providers.
const otherFiles = 1000

func (d *Doctor) openFiles(ctx context.Context) Check {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return skipped("the limit is not known: %v", err)
	}
	count, err := d.Listeners(ctx)
	if err != nil {
		return failed("see database", "listeners cannot be counted: %s", why(ctx, err))
	}
	return judgeFiles(limit.Cur, count["listening"])
}

// judgeFiles says whether a limit is enough for the connections of all listeners: after the death of the other
// nodes, one has them all.
func judgeFiles(limit uint64, listening int) Check {
	if need := uint64(listening + otherFiles); limit < need { //nolint:gosec // G115: a count
		return failed(fmt.Sprintf("set LimitNOFILE=%d or more in the unit (ulimit -n), and restart", 2*need),
			"at most %d, and %d listeners with a connection each need %d", limit, listening, need)
	}
	return ok("at most %d, with %d connections to listen", limit, listening)
}

// credential judges the end of a credential of a transport.
func (d *Doctor) credential(transport, name string, ends time.Time) Check {
	what := transport
	if name != "" {
		what += " " + name
	}
	left := ends.Sub(d.Now())
	switch {
	case ends.IsZero():
		return ok("%s: does not end", what)
	case left <= 0:
		return failed("renew it, then posthorn reload", "%s: ended on %s, nobody of this app is told", what, ends.UTC().Format(time.DateOnly))
	case left < endsSoon:
		return warning("renew it, then posthorn reload", "%s: ends on %s", what, ends.UTC().Format(time.DateOnly))
	}
	return ok("%s: ends on %s", what, ends.UTC().Format(time.DateOnly))
}

// local reports whether the mail server runs on this machine.
func (e *exam) local() bool {
	own, err := net.InterfaceAddrs()
	return err == nil && slices.ContainsFunc(e.addrs, func(a netip.Addr) bool {
		return a.IsLoopback() || slices.ContainsFunc(own, func(o net.Addr) bool {
			p, err := netip.ParsePrefix(o.String())
			return err == nil && p.Addr().Unmap() == a
		})
	})
}

// connections is how many users of the mail host may be listened to by a connection each.
func (e *exam) connections(ctx context.Context) (int, error) {
	if e.host.Source == tenant.SourceDovecot || e.host.Source == tenant.SourceMailNotify {
		return 0, nil
	}
	users, err := e.Tenants.Users(ctx, 0, e.host.Name)
	return len(users), err
}

// ports looks whether one address of ours has ports enough for all connections to one of the server's.
func (e *exam) ports(ctx context.Context) Check {
	users, err := e.connections(ctx)
	switch {
	case err != nil:
		return failed("see database", "users cannot be counted: %s", why(ctx, err))
	case users == 0:
		return skipped("no user of this mail host is listened to by a connection")
	}
	low, high, found := strings.Cut(readSysctl("net/ipv4/ip_local_port_range"), "\t")
	from, err1 := strconv.Atoi(low)
	to, err2 := strconv.Atoi(high)
	if !found || err1 != nil || err2 != nil {
		return skipped("the range of ports is not known on this machine")
	}
	return judgePorts(users, len(e.addrs), to-from+1)
}

// judgePorts compares users with the ports for connections to so many addresses.
func judgePorts(users, addrs, ports int) Check {
	room := ports * max(1, addrs)
	if users > room*9/10 {
		return warning(`set net.ipv4.ip_local_port_range = "1024 65535", give the mail server more addresses, or run more nodes`,
			"%d users may be listened to by a connection each, and there are ports for %d", users, room)
	}
	return ok("enough for %d connections, of %d users that may need one", room, users)
}

// inotify looks whether a mail server on this machine can watch all mailboxes: beyond the limit, Dovecot looks every 30 s only.
func (e *exam) inotify(ctx context.Context) Check {
	users, err := e.connections(ctx)
	switch {
	case err != nil:
		return failed("see database", "users cannot be counted: %s", why(ctx, err))
	case users == 0:
		return skipped("no user of this mail host is listened to by a connection")
	}
	instances, err := strconv.Atoi(readSysctl("fs/inotify/max_user_instances"))
	if err != nil {
		return skipped("the limit is not known on this machine")
	}
	return judgeInotify(users, instances)
}

func judgeInotify(users, instances int) Check {
	if users > instances {
		return warning(fmt.Sprintf("set fs.inotify.max_user_instances = %d or more", 2*users),
			"the mail server is on this machine, where a user's processes can watch %d mailboxes; %d users may be listened to by a connection each, and those beyond it are told late", instances, users)
	}
	return ok("%d mailboxes can be watched, of %d users that may be", instances, users)
}

// readSysctl reads a setting of the kernel; "" where there is none.
func readSysctl(name string) string {
	raw, err := os.ReadFile("/proc/sys/" + name) //nolint:gosec // one of two names
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(raw))
}
