package bench

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// dialConfig makes the baseline of a reconnect: so many bare connections that say what Talk says. The
// users' names are left as they were recorded: the server does not look.
type dialConfig struct {
	Addr        string
	CA          []byte // PEM; none: in clear
	Talk        []talkStep
	Connections int
	Concurrency int
	Rate        float64 // connections begun in a second; 0: as many as it can
}

type dialResult struct{ CPU, Seconds float64 } // of the process, from before the first connection to after the last

func dialChild(ctx context.Context, c dialConfig, out io.Writer) (err error) {
	if len(c.Talk) == 0 {
		return errors.New("nothing to say")
	}
	host, _, err := net.SplitHostPort(c.Addr)
	if err != nil {
		return err
	}
	var secure *tls.Config
	if c.CA != nil {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c.CA) {
			return errors.New("no certificate to trust")
		}
		secure = &tls.Config{RootCAs: pool, ServerName: host, MinVersion: tls.VersionTLS12}
	}
	conns := make([]net.Conn, c.Connections) // held, as a client would
	errs := make([]error, c.Concurrency)
	var all sync.WaitGroup
	before, start := selfCPU(), time.Now()
	for w := range c.Concurrency {
		all.Go(func() {
			answer := make([]byte, 16<<10)
			for n := w; n < len(conns) && errs[w] == nil; n += c.Concurrency {
				if c.Rate > 0 && !pauseUntil(ctx, start.Add(time.Duration(float64(n)/c.Rate*float64(time.Second)))) {
					return
				}
				conns[n], errs[w] = c.dial(ctx, secure, answer)
			}
		})
	}
	all.Wait()
	res := dialResult{CPU: (selfCPU() - before).Seconds(), Seconds: time.Since(start).Seconds()}
	for _, conn := range conns {
		if conn != nil {
			_ = conn.Close()
		}
	}
	if err := errors.Join(append(errs, ctx.Err())...); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(res)
}

// dial connects and says everything, each piece after the whole answer to the one before.
func (c dialConfig) dial(ctx context.Context, secure *tls.Config, answer []byte) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", c.Addr)
	if err != nil {
		return nil, err
	}
	if secure != nil {
		t := tls.Client(conn, secure)
		if err := t.HandshakeContext(ctx); err != nil {
			return conn, err
		}
		conn = t
	}
	for _, step := range c.Talk {
		if len(step.Said) > 0 {
			if _, err := conn.Write(step.Said); err != nil {
				return conn, fmt.Errorf("say %q: %w", step.Said, err)
			}
		}
		for left := step.Answer; left > 0; {
			n, err := conn.Read(answer[:min(left, len(answer))])
			if err != nil {
				return conn, fmt.Errorf("answer to %q: %w", step.Said, err)
			}
			left -= n
		}
	}
	return conn, nil
}
