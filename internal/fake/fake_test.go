package fake

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// clock is a fake's clock, set by hand.
type clock struct{ unix atomic.Int64 }

func newClock() *clock {
	c := &clock{}
	c.unix.Store(time.Date(2026, 11, 22, 9, 0, 0, 0, time.UTC).Unix())
	return c
}

func (c *clock) now() time.Time           { return time.Unix(c.unix.Load(), 0) }
func (c *clock) add(d time.Duration)      { c.unix.Add(int64(d / time.Second)) }
func (c *clock) in(d time.Duration) int64 { return c.now().Add(d).Unix() }

func newECKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type object = map[string]any

// with returns a copy of o with members replaced; nil removes one.
func with(o, changes object) object {
	o = maps.Clone(o)
	for k, v := range changes {
		if v == nil {
			delete(o, k)
			continue
		}
		o[k] = v
	}
	return o
}

func segment(t testing.TB, v any) string {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return base64.RawURLEncoding.EncodeToString(raw)
}

func signES256(t testing.TB, key *ecdsa.PrivateKey, header, claims object) string {
	t.Helper()
	signed := segment(t, header) + "." + segment(t, claims)
	sum := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	sig := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(sig)
}

func soon(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// answerOf is what a client saw.
type answerOf struct {
	status int
	header http.Header
	body   string
	proto  int
}

func (a answerOf) json(t testing.TB) object {
	t.Helper()
	var o object
	if err := json.Unmarshal([]byte(a.body), &o); err != nil {
		t.Fatalf("parse answer %q: %v", a.body, err)
	}
	return o
}

func do(ctx context.Context, c *http.Client, method, url string, h http.Header, body []byte) (answerOf, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return answerOf{}, err
	}
	req.Header = h.Clone()
	res, err := c.Do(req)
	if err != nil {
		return answerOf{}, err
	}
	defer func() { _ = res.Body.Close() }()
	raw, err := io.ReadAll(res.Body)
	return answerOf{res.StatusCode, res.Header, string(raw), res.ProtoMajor}, err
}

func mustDo(t testing.TB, c *http.Client, method, url string, h http.Header, body []byte) answerOf {
	t.Helper()
	a, err := do(soon(t), c, method, url, h, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	return a
}

// newClient has a transport of its own, so that no connection outlives the test.
func newClient(t testing.TB, tr *http.Transport) *http.Client {
	t.Helper()
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

func closed(t testing.TB, c io.Closer) {
	t.Helper()
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

// noServerGoroutines fails if code of a fake or of net/http's server still runs. Their last
// instructions come after what Close can wait for, so it looks again for a while.
func noServerGoroutines(t testing.TB) {
	t.Helper()
	ctx := soon(t)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var left []string
		buf := make([]byte, 1<<20)
		for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
			if strings.Contains(stack, "fake.(*") || strings.Contains(stack, "http2serverConn") || strings.Contains(stack, "http.(*conn)") {
				left = append(left, stack)
			}
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%d goroutines left:\n%s", len(left), strings.Join(left, "\n\n"))
		}
	}
}

func TestAddressMustBeLoopback(t *testing.T) {
	for _, addr := range []string{"0.0.0.0:0", "192.0.2.1:0", "[::]:0", "localhost:0", "127.0.0.1"} {
		if p, err := NewWebPush(WebPushConfig{Addr: addr}); err == nil {
			_ = p.Close()
			t.Errorf("%s: started", addr)
		}
	}
}

func TestRecorder(t *testing.T) {
	var rec recorder
	rec.init(3)
	for _, id := range []string{"a", "b", "c", "d"} {
		rec.count(Result{200, ""}, &Delivery{ID: id, Target: "t-" + id})
	}
	rec.count(Result{503, "ServiceUnavailable"}, nil)
	var ids string
	for _, d := range rec.Deliveries() {
		ids += d.ID
	}
	if ids != "bcd" {
		t.Errorf("kept %q, want the newest three, bcd", ids)
	}
	if got := rec.Count(200, ""); got != 4 {
		t.Errorf("counted %d accepted, want 4", got)
	}
	want := map[Result]int64{{200, ""}: 4, {503, "ServiceUnavailable"}: 1}
	if got := rec.Counts(); !maps.Equal(got, want) {
		t.Errorf("Counts() = %v, want %v", got, want)
	}
	ctx := soon(t)
	if d, err := rec.NextFor(ctx, "t-c"); err != nil || d.ID != "c" {
		t.Errorf("NextFor(t-c) = %q, %v", d.ID, err)
	}
	for _, want := range []string{"b", "d"} {
		if d, err := rec.Next(ctx); err != nil || d.ID != want {
			t.Errorf("Next() = %q, %v; want %q", d.ID, err, want)
		}
	}
	short, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := rec.Next(short); !errors.Is(err, context.Canceled) {
		t.Errorf("Next with a cancelled context: %v", err)
	}

	got := make(chan string)
	go func() {
		d, _ := rec.Next(ctx)
		got <- d.ID
		_, err := rec.Next(ctx)
		got <- err.Error()
	}()
	rec.count(Result{200, ""}, &Delivery{ID: "e"})
	if id := <-got; id != "e" {
		t.Errorf("waiting Next() = %q, want e", id)
	}
	rec.end()
	if text := <-got; text != ErrClosed.Error() {
		t.Errorf("Next() at the end: %s", text)
	}

	var counting recorder
	counting.init(-1)
	counting.count(Result{200, ""}, &Delivery{})
	if _, err := counting.Next(ctx); !errors.Is(err, ErrNotKept) || counting.Count(200, "") != 1 {
		t.Errorf("counting only: %v, %v", err, counting.Counts())
	}
}

func TestDeliveryRedacts(t *testing.T) {
	d := Delivery{ID: "id", Target: "secret-token", Payload: []byte("secret subject")}
	if s := d.LogValue().String(); strings.Contains(s, "secret") {
		t.Errorf("logs as %s", s)
	}
}

func FuzzParseJWT(f *testing.F) {
	key := newECKey(f)
	f.Add(signES256(f, key, object{"alg": "ES256", "typ": "JWT"}, object{"iss": "T", "iat": 1}))
	f.Add("e30.e30.")
	f.Add("bnVsbA.bnVsbA.AA")
	f.Add("..")
	f.Fuzz(func(t *testing.T, s string) {
		tok, err := parseJWT(s)
		if err != nil {
			return
		}
		if tok.header == nil || tok.claims == nil {
			t.Fatal("no error and no objects")
		}
		if !strings.HasPrefix(s, string(tok.signed)+".") {
			t.Fatal("the signed part is not the start of the token")
		}
		moment(tok.claims, "iat")
		if tok.verifyES256(&key.PublicKey) == nil && len(tok.sig) != 64 {
			t.Fatal("verified a signature of the wrong length")
		}
	})
}
