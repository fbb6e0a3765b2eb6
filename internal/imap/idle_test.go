package imap

import (
	"errors"
	"os"
	"testing"
	"time"
)

func TestIdle(t *testing.T) {
	t.Parallel()
	var c *Client
	ready := make(chan struct{})
	s := script{
		text: greetBox + `C: p1 IDLE
			S: * 1 EXISTS
			S: + idling
			S: * OK Still here
			S: * 2 EXISTS
			C: DONE
			S: * 3 EXISTS
			S: p1 OK done
			C: p2 IDLE
			S: + idling
			CALL:
			C: DONE
			S: p2 OK done
			C: p3 NOOP
			S: p3 OK
			C: p4 IDLE
			S: p4 NO not now`,
		call: func() { <-ready; c.Interrupt(time.Minute); c.Interrupt(time.Minute) },
	}
	c = s.dial(t, Config{})
	var got []Update
	c.Handle(func(u Update) {
		if got = append(got, u); u == Exists(2) {
			c.Interrupt(time.Minute) // from where it is told
		}
	})
	close(ready)
	check(t, c.Idle(), nil)
	equal(t, "updates", got, []Update{Exists(1), Notice{Status: "OK", Text: "Still here"}, Exists(2), Exists(3)})
	check(t, c.Idle(), nil)
	c.Interrupt(time.Minute) // what comes between two is not forgotten
	check(t, c.Idle(), nil)
	check(t, c.Noop(t.Context()), nil)
	var refusal *ResponseError
	if err := c.Idle(); !errors.As(err, &refusal) {
		t.Errorf("refused: %v", err)
	}
}

// TestIdleInterruptedAtOnce: before the server says that it idles, DONE would be out of order.
func TestIdleInterruptedAtOnce(t *testing.T) {
	t.Parallel()
	var c *Client
	ready := make(chan struct{})
	c = script{
		text: greetBox + "C: p1 IDLE\nCALL:\nS: + idling\nC: DONE\nS: p1 OK",
		call: func() { <-ready; c.Interrupt(time.Minute) },
	}.dial(t, Config{})
	close(ready)
	check(t, c.Idle(), nil)
}

func TestIdleDead(t *testing.T) {
	t.Parallel()
	var c *Client
	ready := make(chan struct{})
	c = script{
		text: greetBox + "C: p1 IDLE\nS: + idling\nCALL:\nC: DONE",
		call: func() { <-ready; c.Interrupt(20 * time.Millisecond) },
	}.dial(t, Config{})
	close(ready)
	if err := c.Idle(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("no answer to DONE: %v", err)
	}
	check(t, c.Noop(t.Context()), ErrClosed)
}

func TestIdleEnds(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"bye":          "S: + idling\nS: * BYE later",
		"end":          "S: + idling\nEOF:",
		"no answer":    "EOF:",
		"two":          "S: + idling\nS: + idling",
		"wrong tag":    "S: + idling\nS: p9 OK",
		"not a status": "S: + idling\nS: p1 EXISTS",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := play(t, greetBox+"C: p1 IDLE\n"+answer)
			check(t, c.Idle(), errAny)
			check(t, c.Idle(), ErrClosed)
		})
	}
	t.Run("closed", func(t *testing.T) {
		t.Parallel()
		var c *Client
		ready := make(chan struct{})
		c = script{text: greetBox + "C: p1 IDLE\nS: + idling\nCALL:", call: func() { <-ready; c.Close() }}.dial(t, Config{})
		close(ready)
		check(t, c.Idle(), ErrClosed)
	})
}

// TestServer: what connections share, and sessions that are resumed.
func TestServer(t *testing.T) {
	t.Parallel()
	_, roots := certificate()
	cfg := script{text: "TLS:\n" + greetBox + "C: p1 NOOP\nS: p1 OK", times: 2}.serve(t, Config{Security: SecurityTLS, RootCAs: roots})
	s, err := NewServer(cfg)
	check(t, err, nil)
	var first *Client
	for i := range 2 {
		c, err := s.Dial(t.Context())
		check(t, err, nil)
		defer c.Close()
		check(t, c.Noop(t.Context()), nil)
		if i == 0 {
			first = c
		} else if c.caps != first.caps {
			t.Error("two connections have two lists of capabilities")
		}
		if c.Resumed() != (i == 1) {
			t.Errorf("connection %d: resumed %v", i, c.Resumed())
		}
	}
	for i := range 2 * maxSets { // a server that makes lists up
		s.intern([]string{"X" + string(rune('A'+i%26)) + string(rune('A'+i/26))})
	}
	if len(s.sets) > maxSets {
		t.Errorf("%d lists are kept", len(s.sets))
	}
	_, err = NewServer(Config{})
	check(t, err, errAny)
}
