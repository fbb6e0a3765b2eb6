package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// loadConfig says what a load generator does. Event i goes to user First + i % Users with uid
// FirstUID + i / Users. The users are shared out to the connections, so that each user's events are in
// order; a connection waits for each answer.
type loadConfig struct {
	URL          string
	Connections  int
	First, Users int
	FirstUID     int
	Events       int           // 0: until the time is over
	Time         time.Duration // 0: until the events are sent
	Rate         int           // events a second over all; 0: as fast as they are answered
	Stamp        bool          // the time is in the subject
}

// loadResult is what a load generator prints.
type loadResult struct {
	Done, Failed int
	// Retried counts answers 503, after which the same event is sent again.
	Retried int
	Seconds float64
	Problem string
}

func loadChild(ctx context.Context, c loadConfig, out io.Writer) error {
	u, err := url.Parse(c.URL)
	if err != nil {
		return err
	}
	if c.Time > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.Time)
		defer cancel()
	}
	conns := min(c.Connections, c.Users)
	var res loadResult
	var mu sync.Mutex
	var all sync.WaitGroup
	var broken atomic.Pointer[error]
	start := time.Now()
	for n := range conns {
		all.Go(func() {
			one, err := c.connection(ctx, u, n, conns, start)
			if err != nil {
				broken.Store(&err)
			}
			mu.Lock()
			defer mu.Unlock()
			res.Done, res.Failed, res.Retried = res.Done+one.Done, res.Failed+one.Failed, res.Retried+one.Retried
			if res.Problem == "" {
				res.Problem = one.Problem
			}
		})
	}
	all.Wait()
	res.Seconds = time.Since(start).Seconds()
	if err := broken.Load(); err != nil {
		return *err
	}
	return json.NewEncoder(out).Encode(res)
}

// connection sends the events of the users n, n+conns, n+2*conns, … It speaks HTTP/1.1 by itself: what
// net/http's client takes would be missing to the process that is measured.
func (c loadConfig) connection(ctx context.Context, u *url.URL, n, conns int, start time.Time) (res loadResult, err error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return res, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	head := "PUT " + u.Path + " HTTP/1.1\r\nHost: " + u.Host + "\r\nAuthorization: Basic " +
		base64.StdEncoding.EncodeToString([]byte("posthorn:"+notifyPassword)) + "\r\nContent-Type: application/json\r\nContent-Length: "
	var body, request []byte
	mine := (c.Users - n + conns - 1) / conns
	for k := 0; ; {
		round, user := k/mine, n+k%mine*conns
		i := round*c.Users + user          // the number of the event
		if c.Events > 0 && i >= c.Events { // those that are left of the last round have higher numbers
			return res, nil
		}
		if c.Rate > 0 && !pauseUntil(ctx, start.Add(time.Duration(i)*time.Second/time.Duration(c.Rate))) || ctx.Err() != nil {
			return res, nil
		}
		body = c.body(body[:0], user, round)
		request = append(append(append(request[:0], head...), strconv.Itoa(len(body))...), "\r\n\r\n"...)
		if _, err := conn.Write(append(request, body...)); err != nil {
			return res, fmt.Errorf("send: %w", err)
		}
		status, text, err := readAnswer(in)
		if err != nil {
			return res, fmt.Errorf("read answer: %w", err)
		}
		switch {
		case status == 200 && bytes.Contains(text, []byte(`"queued"`)):
			res.Done++
		case status == 503:
			res.Retried++
			if !pause(ctx, 100*time.Millisecond) {
				return res, nil
			}
			continue
		default:
			res.Failed++
			if res.Problem == "" {
				res.Problem = strconv.Itoa(status) + " " + string(text)
			}
		}
		k++
	}
}

func pauseUntil(ctx context.Context, t time.Time) bool {
	d := time.Until(t)
	return d <= 0 || pause(ctx, d)
}

// body is what Dovecot's driver sends for a new mail, about 330 bytes.
func (c loadConfig) body(b []byte, user, round int) []byte {
	uid := strconv.Itoa(c.FirstUID + round)
	b = append(b, `{"user":"`...)
	b = append(b, login(c.First+user)...)
	b = append(b, `","event":"messageNew","folder":"INBOX","imap-uidvalidity":1700000000,"imap-uid":`...)
	b = append(b, uid...)
	b = append(b, `,"from":"Erika Mustermann <erika.mustermann@example.org>","subject":"`...)
	if c.Stamp {
		b = append(append(b, stampMark...), strconv.FormatInt(time.Now().UnixNano(), 10)...)
	} else {
		b = append(append(b, "Minutes of the meeting, and what is left to do: part "...), uid...)
	}
	b = append(b, `","snippet":"Dear all, please find the minutes of our meeting below.","unseen":`...)
	return append(append(b, uid...), '}')
}

// readAnswer reads one HTTP/1.1 answer that has a Content-Length.
func readAnswer(in *bufio.Reader) (status int, body []byte, err error) {
	length := -1
	for first := true; ; first = false {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return 0, nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		switch name, value, _ := bytes.Cut(line, []byte(":")); {
		case first:
			if len(line) < 12 {
				return 0, nil, errors.New("no status line")
			}
			if status, err = strconv.Atoi(string(line[9:12])); err != nil {
				return 0, nil, err
			}
		case len(line) == 0:
			if length < 0 {
				return 0, nil, errors.New("no Content-Length")
			}
			body = make([]byte, length)
			_, err = io.ReadFull(in, body)
			return status, body, err
		case bytes.EqualFold(name, []byte("Content-Length")):
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return 0, nil, err
			}
		}
	}
}
