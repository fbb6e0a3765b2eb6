package imap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestGreeting(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, script string
		caps         []string
		want         string // part of the error
	}{
		{name: "capabilities in the code", script: "S: * OK [CAPABILITY IMAP4rev1 Id] hi", caps: []string{"ID", "IMAP4REV1"}},
		{name: "empty code", script: "S: * OK [CAPABILITY]"},
		{
			name: "capabilities on demand", caps: []string{"ID", "IMAP4REV2"},
			script: "S: * OK hi\nC: p1 CAPABILITY\nS: * CAPABILITY IMAP4rev2 ID\nS: p1 OK done",
		},
		{
			name: "trailing space, no texts", caps: []string{"ID"},
			script: "S: * OK\nC: p1 CAPABILITY\nR: \"* CAPABILITY ID \\r\\np1 OK\\r\\n\"",
		},
		{name: "preauth", script: "S: * PREAUTH [CAPABILITY IMAP4rev1] hi", caps: []string{"IMAP4REV1"}},
		{name: "bye", script: "S: * BYE [UNAVAILABLE] too \"busy\"", want: `server says BYE [UNAVAILABLE] "too \"busy\""`},
		{name: "no", script: "S: * NO what", want: "malformed"},
		{name: "data", script: "S: * CAPABILITY IMAP4rev1", want: "malformed"},
		{name: "tagged", script: "S: p1 OK hi", want: "malformed"},
		{name: "other protocol", script: "S: 220 smtp.example.org ESMTP", want: "malformed"},
		{name: "line feed only", script: `R: "* OK hi\n"`, want: "malformed"},
		{name: "nul", script: `R: "* OK h\x00i\r\n"`, want: "malformed"},
		{name: "open code", script: "S: * OK [CAPABILITY", want: "malformed"},
		{name: "end", script: "EOF:", want: "EOF"},
		{name: "capabilities refused", script: "S: * OK hi\nC: p1 CAPABILITY\nS: p1 BAD no", want: "server says BAD \"no\""},
		{name: "malformed capabilities", script: "S: * OK hi\nC: p1 CAPABILITY\nS: * CAPABILITY (x)", want: "malformed"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c, err := Dial(t.Context(), script{text: tt.script}.serve(t, Config{}))
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want %s", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if caps := c.Capabilities(); !slices.Equal(caps, tt.caps) {
				t.Fatalf("capabilities %v, want %v", caps, tt.caps)
			}
			if c.Has("imap4REV1") != slices.Contains(tt.caps, "IMAP4REV1") {
				t.Fatal("Has disagrees")
			}
		})
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	for _, cfg := range []Config{
		{},
		{Host: "h", Security: "ssl"},
		{Host: "h", Port: -1},
		{Host: "h", Port: 65536},
	} {
		if c, err := Dial(t.Context(), cfg); err == nil {
			c.Close()
			t.Errorf("%+v is accepted", cfg)
		}
	}
	for _, tt := range []struct{ security, want string }{
		{"", "[::1]:993"}, {SecurityTLS, "[::1]:993"}, {SecuritySTARTTLS, "[::1]:143"}, {SecurityNone, "[::1]:143"},
	} {
		var got string
		_, err := Dial(t.Context(), Config{Host: "::1", Security: tt.security, Dial: func(_ context.Context, _, addr string) (net.Conn, error) {
			got = addr
			return nil, io.ErrClosedPipe
		}})
		if got != tt.want || !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%q dials %q: %v", tt.security, got, err)
		}
	}
}

// calls are all that take a context.
var calls = map[string]func(context.Context, *Client) error{
	"log in": func(ctx context.Context, c *Client) error { return c.Login(ctx, "user", "pencil") },
	"exchange ids": func(ctx context.Context, c *Client) error {
		_, err := c.ID(ctx, nil)
		return err
	},
	"get metadata": func(ctx context.Context, c *Client) error {
		_, _, err := c.GetMetadata(ctx, "", "/private/x")
		return err
	},
	"set metadata": func(ctx context.Context, c *Client) error { return c.SetMetadata(ctx, "", "/private/x", nil) },
	"log out":      func(ctx context.Context, c *Client) error { return c.Logout(ctx) },
	"noop":         func(ctx context.Context, c *Client) error { return c.Noop(ctx) },
	"examine": func(ctx context.Context, c *Client) error {
		_, err := c.Examine(ctx, "INBOX", nil)
		return err
	},
	"status": func(ctx context.Context, c *Client) error {
		_, err := c.Status(ctx, "INBOX", StatusUnseen)
		return err
	},
	"list": func(ctx context.Context, c *Client) error {
		_, err := c.List(ctx, ListOptions{})
		return err
	},
	"fetch": func(ctx context.Context, c *Client) error {
		return c.UIDFetch(ctx, UIDs(1), FetchFlags, func(Message) {})
	},
	"search": func(ctx context.Context, c *Client) error {
		_, err := c.UIDSearch(ctx, Search{Unseen: true}, ReturnAll)
		return err
	},
}

const greetAll = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR ID METADATA] hi\n"

// lines are the first lines of the calls, when the server greeted with greetAll.
var lines = map[string]string{
	"log in":       "C: p1 AUTHENTICATE PLAIN AHVzZXIAcGVuY2ls\n",
	"exchange ids": "C: p1 ID NIL\n",
	"get metadata": "C: p1 GETMETADATA \"\" (/private/x)\n",
	"set metadata": "C: p1 SETMETADATA \"\" (/private/x NIL)\n",
	"log out":      "C: p1 LOGOUT\n",
	"noop":         "C: p1 NOOP\n",
	"examine":      "C: p1 EXAMINE INBOX\n",
	"status":       "C: p1 STATUS INBOX (UNSEEN)\n",
	"list":         "C: p1 LIST \"\" \"*\"\n",
	"fetch":        "C: p1 UID FETCH 1 (UID FLAGS)\n",
	"search":       "C: p1 UID SEARCH UNSEEN\n",
}

// TestCancel ends the context while the server thinks.
func TestCancel(t *testing.T) {
	t.Parallel()
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cause := errors.New("no more patience")
			ctx, cancel := context.WithCancelCause(t.Context())
			c := script{text: greetAll + lines[name] + "CALL:", call: func() { cancel(cause) }}.dial(t, Config{})
			start := time.Now()
			if err := call(ctx, c); !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "imap: "+name+": ") {
				t.Errorf("cancelled call: %v", err)
			}
			if took := time.Since(start); took > 2*time.Second {
				t.Errorf("returned after %v", took)
			}
			err := call(t.Context(), c)
			if !errors.Is(err, ErrClosed) || errors.Is(err, cause) {
				t.Errorf("next call: %v", err)
			}
			if name != "log out" && !strings.Contains(err.Error(), "no more patience") {
				t.Errorf("the next call's error does not tell why: %v", err)
			}
		})
	}
}

// TestCancelDial ends the context at each point where Dial waits.
func TestCancelDial(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ name, security, script string }{
		{"greeting", SecurityNone, "CALL:"},
		{"capabilities", SecurityNone, "S: * OK hi\nC: p1 CAPABILITY\nCALL:"},
		{"starttls", SecuritySTARTTLS, "S: * OK [CAPABILITY STARTTLS] hi\nC: p1 STARTTLS\nCALL:"},
		{"handshake", SecurityTLS, "CALL:\nEOF:"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if _, err := Dial(ctx, script{text: tt.script, call: cancel}.serve(t, Config{Security: tt.security})); !errors.Is(err, context.Canceled) {
				t.Fatalf("cancelled Dial: %v", err)
			}
		})
	}
}

func TestCancelWrite(t *testing.T) {
	t.Parallel()
	client, server := net.Pipe() // nothing is buffered: a write hangs until somebody reads
	defer server.Close()
	go func() { _, _ = io.WriteString(server, "* OK [CAPABILITY ID] hi\r\n") }()
	c, err := Dial(t.Context(), Config{Host: "127.0.0.1", Security: SecurityNone, Dial: func(context.Context, string, string) (net.Conn, error) {
		return client, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := c.ID(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("cancelled write: %v", err)
	}
}

// TestCancelBeforeTurn: a call that ends before its turn costs the connection nothing.
func TestCancelBeforeTurn(t *testing.T) {
	t.Parallel()
	waiting := make(chan struct{})
	s := script{
		text: greetAll + "C: p1 ID NIL\nCALL:\nS: p1 OK done\nC: p2 ID NIL\nS: p2 OK done",
		call: func() { <-waiting },
	}
	c := s.dial(t, Config{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.ID(t.Context(), nil); err != nil {
			t.Error(err)
		}
	})
	for len(c.turn) == 0 { // until the first has its turn
		select {
		case <-t.Context().Done():
		case <-time.After(time.Millisecond):
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond)
	defer cancel()
	if _, err := c.ID(ctx, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("call without a turn: %v", err)
	}
	close(waiting)
	wg.Wait()
	done, stop := context.WithCancel(t.Context())
	stop()
	if _, err := c.ID(done, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("call with a context that is over: %v", err)
	}
	if _, err := c.ID(t.Context(), nil); err != nil {
		t.Errorf("the connection suffered: %v", err)
	}
}

func TestClose(t *testing.T) {
	t.Parallel()
	var c *Client
	closer := make(chan *Client, 1)
	c = script{text: greetAll + "C: p1 ID NIL\nCALL:", call: func() { (<-closer).Close() }}.dial(t, Config{})
	closer <- c
	for range 2 {
		if _, err := c.ID(t.Context(), nil); !errors.Is(err, ErrClosed) {
			t.Fatalf("call on a closed connection: %v", err)
		}
		c.Close()
	}
}

// TestUnusable: after these answers nothing can be understood any more.
func TestUnusable(t *testing.T) {
	t.Parallel()
	deep := strings.Repeat("(", maxDepth+1)
	for name, answer := range map[string]string{
		"wrong tag":            `S: p9 OK done`,
		"no status":            `S: p1 YES done`,
		"preauth":              `S: p1 PREAUTH done`,
		"no space":             `S: *OK`,
		"name missing":         `S: * `,
		"number only":          `S: * 5`,
		"huge number":          `S: * 4294967296 EXISTS`,
		"continuation":         `S: + go on`,
		"line feed":            `R: "p1 OK done\n"`,
		"carriage return":      `R: "p1 OK do\rne\r\n"`,
		"end in a line":        "R: \"p1 OK\"\nEOF:",
		"end":                  "EOF:",
		"bye":                  "S: * BYE idle for too long",
		"metadata: no mailbox": `S: * METADATA`,
		"metadata: no list":    `S: * METADATA ""`,
		"metadata: no value":   `S: * METADATA "" (/private/x)`,
		"metadata: atom value": `S: * METADATA "" (/private/x y)`,
		"metadata: open list":  `S: * METADATA "" (/private/x NIL`,
		"metadata: more":       `S: * METADATA "" (/private/x NIL) y`,
		"metadata: nested":     `S: * METADATA "" ` + deep,
		"metadata: two spaces": `S: * METADATA "" (/private/x  NIL)`,
		"quoted: open":         `S: * METADATA "" (/private/x "y)`,
		"quoted: escape":       `S: * METADATA "" (/private/x "\y")`,
		"quoted: nul":          `R: "* METADATA \"\" (/private/x \"\x00\")\r\n"`,
		"literal: too large":   `S: * METADATA "" (/private/x {1048577}`,
		"literal: overflow":    `S: * METADATA "" (/private/x {99999999999999999999999}`,
		"literal: negative":    `S: * METADATA "" (/private/x {-1}`,
		"literal: no number":   `S: * METADATA "" (/private/x {}`,
		"literal: same line":   `S: * METADATA "" (/private/x {1}y)`,
		"literal: cut":         "S: * METADATA \"\" (/private/x {10}\nEOF:",
		"unknown: too large":   "S: * FETCH {4194305}",
		"unknown: cut":         "S: * 1 FETCH (BODY[] {10}\nEOF:",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := play(t, greetAll+lines["get metadata"]+answer)
			if _, _, err := c.GetMetadata(t.Context(), "", "/private/x"); err == nil {
				t.Fatal("no error")
			} else if strings.Contains(err.Error(), "private") {
				t.Fatalf("the error repeats what came: %v", err)
			}
			if _, err := c.ID(t.Context(), nil); !errors.Is(err, ErrClosed) {
				t.Fatalf("next call: %v", err)
			}
		})
	}
}

// TestBounds: no server makes us hold more than the bounds of one response.
func TestBounds(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]func(io.Writer) error{
		"line": func(w io.Writer) error { return repeat(w, "* OK ", "x") },
		"quoted": func(w io.Writer) error {
			return repeat(w, `* METADATA "" (/private/x "`, "y")
		},
		"list":     func(w io.Writer) error { return repeat(w, `* METADATA "" (`, "/private/x NIL ") },
		"literals": func(w io.Writer) error { return repeat(w, `* METADATA "" (/private/x NIL`, " /private/x {4}\r\nabcd") },
		"unknown":  func(w io.Writer) error { return repeat(w, "* LIST ", "{4}\r\nabcd") },
		"large literals": func(w io.Writer) error {
			return repeat(w, `* METADATA "" (/private/x NIL`, " /private/x {1048576}\r\n"+strings.Repeat("z", maxLiteral))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client, server := net.Pipe()
			var wg sync.WaitGroup
			defer wg.Wait()
			wg.Go(func() {
				defer server.Close()
				_, _ = io.WriteString(server, "* OK [CAPABILITY METADATA] hi\r\n")
				_, _ = io.ReadFull(server, make([]byte, len(`p1 GETMETADATA "" (/private/x)`+"\r\n")))
				if err := answer(server); err == nil {
					t.Error("all was taken")
				}
			})
			c, err := Dial(t.Context(), Config{Host: "127.0.0.1", Security: SecurityNone, Dial: func(context.Context, string, string) (net.Conn, error) {
				return client, nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, _, err := c.GetMetadata(t.Context(), "", "/private/x"); !errors.Is(err, errTooLong) {
				t.Fatalf("error %v", err)
			}
		})
	}
}

// repeat writes more than any bound allows.
func repeat(w io.Writer, head, body string) error {
	block := strings.Repeat(body, 1+4096/len(body))
	if _, err := io.WriteString(w, head); err != nil {
		return err
	}
	for n := 0; n < 10*maxResponse; n += len(block) {
		if _, err := io.WriteString(w, block); err != nil {
			return err
		}
	}
	return nil
}

// TestTurns: commands of many goroutines do not mix.
func TestTurns(t *testing.T) {
	t.Parallel()
	const n = 20
	var text strings.Builder
	text.WriteString(greetAll)
	for i := 1; i <= n; i++ {
		fmt.Fprintf(&text, "C: p%d ID NIL\nS: * ID (\"n\" {1}\nS: x)\nS: p%d OK done\n", i, i)
	}
	c := play(t, text.String())
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			got, err := c.ID(t.Context(), nil)
			if err != nil || got["n"] != "x" {
				t.Errorf("ID = %v, %v", got, err)
			}
		})
	}
	wg.Wait()
}
