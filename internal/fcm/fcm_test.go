package fcm

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/outcome"
)

// testToken has the shape of a registration token.
var testToken = "fcm-device:" + strings.Repeat("APA91b_-", 16)

// firebase stands in for both of Google's services. The handlers may be replaced between requests.
type firebase struct {
	*httptest.Server

	mu        sync.Mutex
	exchanges int
	sends     int
	token     func(w http.ResponseWriter, r *http.Request, n int)
	send      func(w http.ResponseWriter, r *http.Request, n int)
}

func startFirebase(tb testing.TB) *firebase {
	tb.Helper()
	f := &firebase{}
	f.token = func(w http.ResponseWriter, _ *http.Request, n int) {
		_, _ = fmt.Fprintf(w, `{"access_token":"access-%d","expires_in":3599,"token_type":"Bearer"}`, n)
	}
	f.send = func(w http.ResponseWriter, _ *http.Request, n int) {
		_, _ = fmt.Fprintf(w, `{"name":"projects/posthorn-test/messages/%d"}`, n)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /token", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.exchanges++
		n, h := f.exchanges, f.token
		f.mu.Unlock()
		h(w, r, n)
	})
	mux.HandleFunc("POST /v1/projects/posthorn-test/messages:send", func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.sends++
		n, h := f.sends, f.send
		f.mu.Unlock()
		h(w, r, n)
	})
	f.Server = httptest.NewUnstartedServer(mux)
	f.EnableHTTP2 = true
	f.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError) // tests provoke failing handshakes
	f.StartTLS()
	tb.Cleanup(f.Close)
	return f
}

func (f *firebase) counts() (exchanges, sends int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.exchanges, f.sends
}

func (f *firebase) sender(tb testing.TB, change func(*Config)) *Sender {
	tb.Helper()
	c := Config{ServiceAccount: encode(tb, accountFile(tb, f.URL+"/token")), Endpoint: f.URL, HTTP: f.Client()}
	if change != nil {
		change(&c)
	}
	s, err := New(c)
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

func testMessage() Message {
	return Message{
		Data: map[string]string{"account": "3", "unseen": "7"}, Priority: High, TTL: time.Hour,
		CollapseKey: "acc-3", RestrictedPackage: "org.posthorn.mail",
	}
}

func TestSend(t *testing.T) {
	f := startFirebase(t)
	granted := f.token
	f.token = func(w http.ResponseWriter, r *http.Request, n int) {
		if err := verifyAssertion(r, f.URL+"/token"); err != nil {
			t.Error(err)
		}
		granted(w, r, n)
	}
	accepted := f.send
	f.send = func(w http.ResponseWriter, r *http.Request, n int) {
		if got := r.Header.Get("Authorization"); got != "Bearer access-1" {
			t.Errorf("authorization %q", got)
		}
		body, err := io.ReadAll(r.Body)
		want := `{"message":{"token":"` + testToken + `","data":{"account":"3","unseen":"7"},"android":{"priority":"HIGH","ttl":"3600s","collapse_key":"acc-3","restricted_package_name":"org.posthorn.mail"}}}`
		if err != nil || string(body) != want {
			t.Errorf("body\n got %s\nwant %s\n%v", body, want, err)
		}
		if ct := r.Header.Get("Content-Type"); ct != "application/json" || r.ProtoMajor != 2 {
			t.Errorf("content type %q over %s", ct, r.Proto)
		}
		accepted(w, r, n)
	}
	s := f.sender(t, nil)
	for n := 1; n <= 3; n++ {
		want := outcome.Outcome{Kind: outcome.Delivered, Status: 200, ProviderID: fmt.Sprintf("projects/posthorn-test/messages/%d", n)}
		if o := s.Send(t.Context(), testToken, testMessage()); o != want {
			t.Errorf("outcome %+v", o)
		}
	}
	if n, _ := f.counts(); n != 1 {
		t.Errorf("%d token exchanges", n)
	}
}

func TestEncode(t *testing.T) {
	tests := []struct {
		name string
		m    Message
		want string
	}{
		{"least", Message{Priority: Normal}, `{"message":{"token":"t","android":{"priority":"NORMAL","ttl":"0s"}}}`},
		{"seconds only", Message{Priority: High, TTL: 90*time.Second + 999*time.Millisecond}, `{"message":{"token":"t","android":{"priority":"HIGH","ttl":"90s"}}}`},
		{"too long a life", Message{Priority: High, TTL: 100 * 24 * time.Hour}, `{"message":{"token":"t","android":{"priority":"HIGH","ttl":"2419200s"}}}`},
		{"negative life", Message{Priority: High, TTL: -time.Hour}, `{"message":{"token":"t","android":{"priority":"HIGH","ttl":"0s"}}}`},
		{"escapes", Message{Priority: High, Data: map[string]string{"s": "a\"\n<ü>"}}, `{"message":{"token":"t","data":{"s":"a\"\n\u003cü\u003e"},"android":{"priority":"HIGH","ttl":"0s"}}}`},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			if got, err := tc.m.encode("t"); err != nil || string(got) != tc.want {
				t.Errorf("\n got %s\nwant %s\n%v", got, tc.want, err)
			}
		})
	}
}

// TestRefusedHere: what is known to be wrong costs no request.
func TestRefusedHere(t *testing.T) {
	f := startFirebase(t)
	s := f.sender(t, nil)
	large := testMessage()
	large.Data = map[string]string{"k": strings.Repeat("ü", 2047), "": "x"} // 1 + 4094 + 1
	if o := s.Send(t.Context(), testToken, large); o.Kind != outcome.Delivered {
		t.Errorf("at the limit: %+v", o)
	}
	large.Data["kk"] = ""
	if o := s.Send(t.Context(), testToken, large); o.Kind != outcome.Refused || o.Reason != "PayloadTooLarge" || o.Err == nil {
		t.Errorf("above the limit: %+v", o)
	}
	odd := testMessage()
	odd.Priority = "urgent"
	if o := s.Send(t.Context(), testToken, odd); o.Kind != outcome.Refused || o.Reason != "INVALID_ARGUMENT" {
		t.Errorf("priority: %+v", o)
	}
	for _, token := range []string{"", strings.Repeat("x", 4097), "with space", "new\nline", "ümlaut", "del\x7f"} {
		o := s.Send(t.Context(), token, testMessage())
		if o.Kind != outcome.Suspect || o.Reason != "INVALID_ARGUMENT" || o.Err == nil || (token != "" && strings.Contains(o.Err.Error(), token)) {
			t.Errorf("token of %d characters: %+v", len(token), o)
		}
	}
	if err := CheckToken(strings.Repeat("x", 4096)); err != nil {
		t.Error(err)
	}
	if _, n := f.counts(); n != 1 {
		t.Errorf("%d requests were made", n)
	}
}

func TestDeadlineAndCancel(t *testing.T) {
	release := make(chan struct{})
	hang := func(_ http.ResponseWriter, r *http.Request, _ int) {
		select {
		case <-r.Context().Done():
		case <-release:
		}
	}
	for _, stage := range []string{"token", "send"} {
		t.Run(stage, func(t *testing.T) {
			f := startFirebase(t)
			if stage == "token" {
				f.token = hang
			} else {
				f.send = hang
			}
			s := f.sender(t, nil)
			// A second message waits for the first one's exchange, and gives up at its own time.
			var wg sync.WaitGroup
			for range 2 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
					defer cancel()
					if o := s.Send(ctx, testToken, testMessage()); o.Kind != outcome.Later || o.Reason != "timeout" || o.Err == nil {
						t.Errorf("outcome %+v", o)
					}
				})
			}
			wg.Wait()
			ctx, cancel := context.WithCancel(t.Context())
			cancel()
			if o := s.Send(ctx, testToken, testMessage()); o.Kind != outcome.Later || o.Reason != "canceled" {
				t.Errorf("outcome %+v", o)
			}
		})
	}
	close(release)
}

// TestSlowDrip: an answer that comes octet by octet is waited for no longer than any other; its status counts.
func TestSlowDrip(t *testing.T) {
	for status, kind := range map[int]outcome.Kind{200: outcome.Delivered, 503: outcome.Later} {
		f := startFirebase(t)
		s := f.sender(t, nil)
		s.Send(t.Context(), testToken, testMessage()) // has the access token fetched
		f.send = func(w http.ResponseWriter, r *http.Request, _ int) {
			w.WriteHeader(status)
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for r.Context().Err() == nil {
				_, _ = w.Write([]byte(" "))
				_ = http.NewResponseController(w).Flush()
				<-tick.C
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		begin := time.Now()
		if o := s.Send(ctx, testToken, testMessage()); o.Kind != kind || o.Status != status {
			t.Errorf("outcome %+v", o)
		}
		if d := time.Since(begin); d > 5*time.Second {
			t.Errorf("after %v", d)
		}
	}
}

func TestNoAnswer(t *testing.T) {
	f := startFirebase(t)
	down := httptest.NewServer(http.NotFoundHandler())
	closed := down.URL
	down.Close()
	plain := httptest.NewServer(http.NotFoundHandler())
	defer plain.Close()
	tests := []struct {
		name   string
		change func(*Config)
		reason string
	}{
		{"nobody listens", func(c *Config) { c.Endpoint = closed }, "connect"},
		{"no such host", func(c *Config) { c.Endpoint = "https://fcm.invalid" }, "dns"},
		{"not TLS", func(c *Config) { c.Endpoint = strings.Replace(plain.URL, "http:", "https:", 1) }, "connection"},
		{"unknown authority", func(c *Config) { c.HTTP = nil }, "tls"},
		{"no token service", func(c *Config) { c.ServiceAccount = encode(t, accountFile(t, closed)) }, "connect"},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			o := f.sender(t, tc.change).Send(t.Context(), testToken, testMessage())
			if o.Kind != outcome.Later || o.Reason != tc.reason || o.Err == nil || o.Status != 0 || strings.Contains(o.Err.Error(), testToken) {
				t.Errorf("outcome %+v", o)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	f := startFirebase(t)
	f.send = func(w http.ResponseWriter, _ *http.Request, n int) {
		if n > 1 {
			t.Error("the redirect was followed")
		}
		w.Header().Set("Location", "/v1/projects/posthorn-test/messages:send")
		w.WriteHeader(http.StatusTemporaryRedirect)
	}
	if o := f.sender(t, nil).Send(t.Context(), testToken, testMessage()); o.Kind != outcome.Refused || o.Reason != "unknown_status" {
		t.Errorf("outcome %+v", o)
	}
}
