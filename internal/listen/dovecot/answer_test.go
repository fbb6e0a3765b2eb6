package dovecot

import (
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/tenant"
)

func TestParseAnswer(t *testing.T) {
	t.Parallel()
	for raw, want := range map[string]error{
		`[["doveadmResponse",[],"posthorn"]]`:                                   nil,
		`[["doveadmResponse",[{"mailbox":"INBOX","uid":7}],"posthorn"]]` + "\n": nil,
		`[["error",{"type":"exitCode", "exitCode":67},"posthorn"]]`:             ErrNoUser,
		`[["error",{"type":"unAuthorized", "exitCode":0},"posthorn"]]`:          ErrNotAllowed,
		`[["error",{"type":"exitCode", "exitCode":68},"posthorn"]]`:             ErrNoFolder,
		``:                                    ErrAnswer,
		`null`:                                ErrAnswer,
		`{}`:                                  ErrAnswer,
		`[]`:                                  ErrAnswer,
		`[["doveadmResponse",[],"1"]]`:        ErrAnswer,
		`[["doveadmResponse",[],0]]`:          ErrAnswer,
		`[["doveadmResponse",[]]]`:            ErrAnswer,
		`[["doveadmResponse",[],"0","more"]]`: ErrAnswer,
		`[["doveadmResponse",[],"posthorn"],["doveadmResponse",[],"posthorn"]]`: ErrAnswer,
		`[["doveadmResponse",{},"posthorn"]]`:                                   ErrAnswer,
		`[["doveadmResponse",[{"value":null}],"posthorn"]]`:                     ErrAnswer,
		`[["doveadmResponse",[{"value":true}],"posthorn"]]`:                     ErrAnswer,
		`[["doveadmResponse",[{"value":["x"]}],"posthorn"]]`:                    ErrAnswer,
		`[["DoveadmResponse",[],"posthorn"]]`:                                   ErrAnswer,
		`[["error",{},"posthorn"]]`:                                             ErrAnswer,
		`[["error",null,"posthorn"]]`:                                           ErrAnswer,
		`[["error",{"type":"exitCode","exitCode":"67"},"posthorn"]]`:            ErrAnswer,
		`[["doveadmResponse",[],"posthorn"]] trailing`:                          ErrAnswer,
		strings.Repeat("[", 20000):                                              ErrAnswer,
	} {
		if _, err := parseAnswer([]byte(raw), "mailboxStatus"); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%.60s: %v, want %v", raw, err, want)
		}
	}
	for raw, want := range map[string]string{
		`[["error",{"type":"exitCode","exitCode":75},"posthorn"]]`:     "doveadm mailboxStatus: exit code 75",
		`[["error",{"type":"unknownMethod","exitCode":0},"posthorn"]]`: "doveadm mailboxStatus: unknownMethod",
	} {
		_, err := parseAnswer([]byte(raw), "mailboxStatus")
		if _, ok := errors.AsType[*ExitError](err); !ok || err.Error() != want {
			t.Errorf("%s: %v", raw, err)
		}
		if got := Reason(err); !strings.Contains(got, want) {
			t.Errorf("%s: %s", raw, got)
		}
	}
}

func FuzzParseAnswer(f *testing.F) {
	for _, s := range []string{
		`[["doveadmResponse",[{"value":"user=3@1"}],"posthorn"]]`, `[["error",{"type":"exitCode","exitCode":67},"posthorn"]]`,
		`[["doveadmResponse",[{"mailbox":"INBOX","uid":7}],"posthorn"]]`, `[["doveadmResponse",[{"uid":"\u0001"}],"posthorn"]]`,
		`[]`, `[[]]`, `{"a":1}`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		records, err := parseAnswer([]byte(raw), "fetch")
		if err != nil && (Reason(err) == "" || records != nil) {
			t.Fatalf("%v, and no reason for %v", records, err)
		}
		for _, r := range records {
			if n, err := number(r, "uid", 32); err == nil && n > 1<<32-1 {
				t.Fatal(n)
			}
		}
	})
}

// TestAsk: what is not a doveadm API, or does not answer as one, is an error by its kind; the key goes nowhere
// but to the address that was given.
func TestAsk(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		t.Error("the key was carried on")
	}))
	t.Cleanup(elsewhere.Close)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "X-Dovecot-API "+base64.StdEncoding.EncodeToString([]byte("kéy")) || r.Method != http.MethodPost {
			t.Errorf("%s %v", r.Method, r.Header)
		}
		switch r.URL.Path {
		case doveadmPath:
			body, _ := io.ReadAll(r.Body)
			if string(body) != `[["a",{"user":"u"},"posthorn"]]` {
				t.Errorf("asked %s", body)
			}
			_, _ = io.WriteString(w, `[["doveadmResponse",[{"x":"1"}],"posthorn"]]`)
		case "/moved":
			http.Redirect(w, r, elsewhere.URL, http.StatusTemporaryRedirect)
		case "/broken":
			w.WriteHeader(http.StatusBadGateway)
		case "/page":
			_, _ = io.WriteString(w, "<html>")
		case "/long":
			_, _ = io.WriteString(w, "["+strings.Repeat(" ", maxAnswer)+"]")
		case "/cut":
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "[")
		}
	}))
	t.Cleanup(srv.Close)
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}))
	ask := func(h tenant.MailHost) ([]record, error) {
		h.DoveadmKey = "kéy"
		d := newDoveadm(h)
		defer d.http.CloseIdleConnections()
		return d.ask(t.Context(), "a", map[string]any{"user": "u"})
	}
	for _, path := range []string{"", "/", doveadmPath} {
		got, err := ask(tenant.MailHost{DoveadmURL: srv.URL + path, CA: ca})
		if err != nil || len(got) != 1 || got[0]["x"] != "1" {
			t.Errorf("%q: %v, %v", path, got, err)
		}
	}
	for path, want := range map[string]error{
		"/moved": ErrAnswer, "/broken": ErrUnreachable, "/page": ErrAnswer, "/long": errTooLong, "/cut": ErrUnreachable,
	} {
		if _, err := ask(tenant.MailHost{DoveadmURL: srv.URL + path, CA: ca}); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	// The certificate is verified, unless the operator says not to.
	if _, err := ask(tenant.MailHost{DoveadmURL: srv.URL}); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("an unknown authority: %v", err)
	}
	if _, err := ask(tenant.MailHost{DoveadmURL: srv.URL, Insecure: true}); err != nil {
		t.Error(err)
	}
}

// TestClientIsKept: one client for each mail host, until its settings change.
func TestClientIsKept(t *testing.T) {
	t.Parallel()
	var s Source
	h := tenant.MailHost{Name: "dove", DoveadmURL: "https://a", DoveadmKey: "k"}
	first := s.doveadm(h)
	h.IMAPHost = "elsewhere"
	if s.doveadm(h) != first {
		t.Error("a client for each call")
	}
	for _, change := range []func(){
		func() { h.DoveadmURL = "https://b" },
		func() { h.DoveadmKey = "l" },
		func() { h.CA = "-" },
		func() { h.Insecure = true },
		func() { h.Name = "other" },
	} {
		change()
		next := s.doveadm(h)
		if next == first || next != s.doveadm(h) {
			t.Errorf("%+v: the old client", h)
		}
		first = next
	}
}

// TestConnectionThatWasKept may have been closed by the server at the moment it is used again: no fault of anybody.
func TestConnectionThatWasKept(t *testing.T) {
	t.Parallel()
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if asked.Add(1) == 2 {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.WriteString(w, `[["doveadmResponse",[],"posthorn"]]`)
	}))
	t.Cleanup(srv.Close)
	d := newDoveadm(tenant.MailHost{DoveadmURL: srv.URL, DoveadmKey: "k"})
	for range 2 {
		if _, err := d.ask(t.Context(), "a", nil); err != nil {
			t.Error(err)
		}
	}
	if n := asked.Load(); n != 3 {
		t.Errorf("asked %d times, want 3", n)
	}
}
