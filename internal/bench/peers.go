package bench

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"time"

	"github.com/posthorn-mail/posthorn/internal/db"
)

// peer is a real server of others that a run started for itself: PostgreSQL or Dovecot.
type peer struct {
	cmd  *exec.Cmd
	last os.Signal // that ends it
	log  *os.File
}

// errMissing says what a part needs that is not installed.
var errMissing = errors.New("this part needs PostgreSQL and Dovecot 2.3 on this machine: apt-get install postgresql dovecot-imapd dovecot-lmtpd")

// find returns the program, of which the directories may hold several versions: the newest.
func find(name string, dirs ...string) (string, error) {
	for _, dir := range dirs {
		all, _ := filepath.Glob(filepath.Join(dir, name)) // the patterns are ours
		if len(all) > 0 {
			slices.Sort(all)
			return all[len(all)-1], nil
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	return "", fmt.Errorf("%w (%s was not found)", errMissing, name)
}

// startPeer runs a program in a process group of its own, as the user if one is given. dir holds its log.
func startPeer(ctx context.Context, dir string, as *user.User, last os.Signal, program string, args ...string) (*peer, error) {
	log, err := os.CreateTemp(dir, "peer-*.log")
	if err != nil {
		return nil, err
	}
	p := &peer{exec.CommandContext(ctx, program, args...), last, log} //nolint:gosec // a program we looked for
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Dir = log, log, "/"
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(last) }
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if as != nil {
		c, err := credential(as)
		if err != nil {
			return nil, errors.Join(err, log.Close())
		}
		p.cmd.SysProcAttr.Credential = c
	}
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", program, err), log.Close())
	}
	return p, nil
}

func credential(u *user.User) (*syscall.Credential, error) {
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}, errors.Join(err1, err2)
}

// stop ends the server and waits for it.
func (p *peer) stop() error {
	_ = p.cmd.Process.Signal(p.last)
	_ = p.cmd.Wait() // says by which signal it ended
	return p.log.Close()
}

func (p *peer) said() string {
	raw, _ := os.ReadFile(p.log.Name())
	return tail(string(raw))
}

// startPostgres makes a cluster with one empty database, and returns the database's URL. The socket's
// directory belongs to one user, so "trust" lets in that user and root alone. Settings are the defaults,
// fsync included.
func (r *runner) startPostgres(ctx context.Context) (_ *peer, url string, err error) {
	initdb, err := find("initdb", "/usr/lib/postgresql/*/bin")
	if err != nil {
		return nil, "", err
	}
	dir, err := os.MkdirTemp("", "phb-pg-") // the path of a socket must be short
	if err != nil {
		return nil, "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	r.clean = append(r.clean, dir)
	var as *user.User
	if os.Getuid() == 0 { // PostgreSQL refuses to be root
		if as, err = user.Lookup("postgres"); err != nil {
			return nil, "", fmt.Errorf("%w (%w)", errMissing, err)
		}
		c, err := credential(as)
		if err != nil {
			return nil, "", err
		}
		if err := os.Chown(dir, int(c.Uid), int(c.Gid)); err != nil {
			return nil, "", err
		}
	}
	data := filepath.Join(dir, "data")
	made, err := startPeer(ctx, r.dir, as, os.Interrupt, initdb, "--pgdata="+data, "--username=posthorn", "--auth=trust",
		"--encoding=UTF8", "--locale=C.UTF-8", "--no-sync")
	if err != nil {
		return nil, "", err
	}
	if err := made.cmd.Wait(); err != nil {
		return nil, "", errors.Join(fmt.Errorf("%s: %w: %s", initdb, err, made.said()), made.log.Close())
	}
	if err := made.log.Close(); err != nil {
		return nil, "", err
	}
	p, err := startPeer(ctx, r.dir, as, os.Interrupt, filepath.Join(filepath.Dir(initdb), "postgres"), "-D", data, "-k", dir,
		"-c", "listen_addresses=", "-c", "max_connections=200")
	if err != nil {
		return nil, "", err
	}
	url = "postgres:///postgres?host=" + dir + "&user=posthorn&sslmode=disable"
	err = until(ctx, 30*time.Second, "PostgreSQL answers", func() (bool, error) {
		d, err := db.Open(ctx, url, db.Options{})
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return true, d.Close()
	})
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("%w: %s", err, p.said()), p.stop())
	}
	return p, url, nil
}

// freePorts finds ports of 127.0.0.1 that nobody listens on, below those that outgoing connections get, and
// finds none twice.
func (r *runner) freePorts(ctx context.Context, n int) ([]int, error) {
	var lc net.ListenConfig
	var ports []int
	if r.port == 0 {
		r.port = 20000 + os.Getpid()%5000
	}
	for ; r.port < 32000 && len(ports) < n; r.port++ {
		ln, err := lc.Listen(ctx, "tcp", address(r.port))
		if err != nil {
			continue
		}
		if err := ln.Close(); err != nil {
			return nil, err
		}
		ports = append(ports, r.port)
	}
	if len(ports) < n {
		return nil, errors.New("there are no free ports")
	}
	return ports, nil
}
