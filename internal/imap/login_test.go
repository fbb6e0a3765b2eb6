package imap

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	const (
		plainIR  = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\nC: p1 AUTHENTICATE PLAIN AHVzZXIAcGVuY2ls\n"
		plain    = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi\nC: p1 AUTHENTICATE PLAIN\nS: + \nC: AHVzZXIAcGVuY2ls\n"
		bareLine = "S: * OK [CAPABILITY IMAP4rev1] hi\nC: p1 LOGIN user pencil\n"
		good     = "S: p1 OK [CAPABILITY IMAP4rev1 METADATA] welcome\n"
	)
	for _, tt := range []struct {
		name, script, user, password string
		want, not                    error
	}{
		{name: "plain with initial response", script: plainIR + good},
		{name: "plain with continuation", script: plain + good},
		{name: "plain with bare continuation", script: strings.Replace(plain, "S: + \n", "S: +\n", 1) + good},
		{name: "login", script: bareLine + good},
		{name: "capabilities untagged", script: bareLine + "S: * CAPABILITY IMAP4rev1 METADATA\nS: p1 OK welcome"},
		{name: "capabilities asked for", script: bareLine + "S: p1 OK welcome\nC: p2 CAPABILITY\nS: * 3 EXISTS\nS: * CAPABILITY METADATA\nS: p2 OK done"},
		{name: "lower case", script: bareLine + "S: * capability METADATA\nS: p1 ok welcome"},
		{name: "quoted", user: `a "b"\`, password: "p (x", script: "S: * OK [CAPABILITY X] hi\nC: p1 LOGIN \"a \\\"b\\\"\\\\\" \"p (x\"\n" + good},
		{name: "nil", user: "nil", password: "NIL", script: "S: * OK [CAPABILITY X] hi\nC: p1 LOGIN \"nil\" \"NIL\"\n" + good},
		{
			name: "synchronising literal", password: "pässword",
			script: "S: * OK [CAPABILITY X] hi\nC: p1 LOGIN user {9}\nS: + go\nC: pässword\n" + good,
		},
		{name: "non-synchronising literal", password: "pässword", script: "S: * OK [CAPABILITY LITERAL+] hi\nC: p1 LOGIN user {9+}\nC: pässword\n" + good},
		{
			name: "literal refused", password: "pässword", not: ErrAuth,
			script: "S: * OK [CAPABILITY X] hi\nC: p1 LOGIN user {9}\nS: p1 BAD [TOOBIG] no",
			want:   &ResponseError{},
		},

		{name: "rejected", script: plainIR + "S: p1 NO [AUTHENTICATIONFAILED] wrong", want: ErrAuth},
		{name: "rejected without code", script: bareLine + "S: p1 NO wrong", want: ErrAuth},
		{name: "rejected with alert", script: bareLine + "S: p1 NO [ALERT] use an application password", want: ErrAuth},
		{name: "expired", script: bareLine + "S: p1 NO [EXPIRED] renew", want: ErrAuth},
		{name: "unavailable", script: plainIR + "S: p1 NO [UNAVAILABLE] later", want: &ResponseError{}, not: ErrAuth},
		{name: "unavailable in lower case", script: plainIR + "S: p1 no [unavailable] later", want: &ResponseError{}, not: ErrAuth},
		{name: "in use", script: plainIR + "S: p1 NO [INUSE] later", want: &ResponseError{}, not: ErrAuth},
		{name: "limit", script: plainIR + "S: p1 NO [LIMIT 5] later", want: &ResponseError{}, not: ErrAuth},
		{name: "bug", script: plainIR + "S: p1 NO [SERVERBUG] oops", want: &ResponseError{}, not: ErrAuth},
		{name: "elsewhere", script: bareLine + "S: p1 NO [REFERRAL imap://user@[::1]/] there", want: &ResponseError{}, not: ErrAuth},
		{name: "bad", script: plainIR + "S: p1 BAD what", want: &ResponseError{}, not: ErrAuth},
		{name: "bye", script: plainIR + "S: * BYE shutting down", want: &ResponseError{}, not: ErrAuth},
		{name: "end", script: plainIR + "EOF:", not: ErrAuth, want: errAny},
		{name: "privacy required", script: bareLine + "S: p1 NO [PRIVACYREQUIRED] no", want: ErrInsecure, not: ErrAuth},
		{name: "challenge after all was said", script: plainIR + "S: + eyJ9\nC: *\nS: p1 NO failed", want: ErrAuth},
		{name: "second challenge", script: plain + "S: + eyJ9\nC: *\nS: p1 BAD cancelled", want: &ResponseError{}, not: ErrAuth},
		{name: "login disabled", script: "S: * OK [CAPABILITY IMAP4rev1 STARTTLS LOGINDISABLED] hi", want: ErrInsecure},
		{name: "preauth", script: "S: * PREAUTH [CAPABILITY IMAP4rev1 AUTH=PLAIN] hi", want: errAny, not: ErrAuth},

		{name: "empty login", user: "-", script: "S: * OK [CAPABILITY X] hi", want: ErrAuth},
		{name: "empty password", password: "-", script: "S: * OK [CAPABILITY X] hi", want: ErrAuth},
		{name: "line feed", password: "a\nb", script: "S: * OK [CAPABILITY AUTH=PLAIN] hi", want: ErrAuth},
		{name: "carriage return", user: "a\rb", script: "S: * OK [CAPABILITY X] hi", want: ErrAuth},
		{name: "nul in login", user: "a\x00b", script: "S: * OK [CAPABILITY AUTH=PLAIN] hi", want: ErrAuth},
		{name: "nul in password", password: "a\x00b", script: "S: * OK [CAPABILITY X] hi", want: ErrAuth},
		{name: "long login", user: strings.Repeat("x", 1025), script: "S: * OK [CAPABILITY X] hi", want: ErrAuth},
		{name: "long password", password: strings.Repeat("x", 1025), script: "S: * OK [CAPABILITY X] hi", want: ErrAuth},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := play(t, tt.script)
			user, password := or(tt.user, "user"), or(tt.password, "pencil")
			before := c.Capabilities()
			err := c.Login(t.Context(), user, password)
			check(t, err, tt.want)
			if tt.not != nil && errors.Is(err, tt.not) {
				t.Errorf("%v is taken for %v", err, tt.not)
			}
			if err == nil && !c.Has("METADATA") {
				t.Error("capabilities are those of before")
			}
			if err != nil && c.usable() == nil && len(c.Capabilities()) != len(before) {
				t.Error("capabilities are lost")
			}
			if err == nil {
				if err := c.Login(t.Context(), user, password); err == nil || errors.Is(err, ErrAuth) {
					t.Errorf("second login: %v", err)
				}
			}
		})
	}
}

// or returns the usual value for "", and "" for "-".
func or(s, usual string) string {
	switch s {
	case "":
		return usual
	case "-":
		return ""
	}
	return s
}

// errAny stands for an error of no particular kind.
var errAny = errors.New("any")

func check(t *testing.T, err, want error) {
	t.Helper()
	switch want := want.(type) { //nolint:errorlint // chooses what to look for
	case nil:
		if err != nil {
			t.Fatal(err)
		}
	case *ResponseError:
		if _, ok := errors.AsType[*ResponseError](err); !ok {
			t.Fatalf("error %v, want a response", err)
		}
	default:
		if err == nil || want != errAny && !errors.Is(err, want) { //nolint:errorlint // errAny is never wrapped
			t.Fatalf("error %v, want %v", err, want)
		}
	}
}

// TestRetryAfterRejection: the connection survives a wrong password.
func TestRetryAfterRejection(t *testing.T) {
	t.Parallel()
	c := play(t, `S: * OK [CAPABILITY AUTH=PLAIN] hi
		C: p1 AUTHENTICATE PLAIN
		S: +
		C: AHVzZXIAd3Jvbmc=
		S: p1 NO wrong
		C: p2 AUTHENTICATE PLAIN
		S: +
		C: AHVzZXIAcGVuY2ls
		S: p2 OK [CAPABILITY METADATA] right`)
	check(t, c.Login(t.Context(), "user", "wrong"), ErrAuth)
	check(t, c.Login(t.Context(), "user", "pencil"), nil)
}

// TestClearText: where a password goes without TLS, and where it does not.
func TestClearText(t *testing.T) {
	t.Parallel()
	const greet = "S: * OK [CAPABILITY X] hi\n"
	for host, sent := range map[string]bool{
		"localhost": true, "LocalHost": true, "127.0.0.1": true, "127.255.0.3": true, "::1": true, "::ffff:127.0.0.1": true,
		"localhost.example.org": false, "127.0.0.1.example.org": false, "10.0.0.1": false, "0.0.0.0": false, "::": false,
		"192.168.0.1": false, "mail.example.org": false, "2130706433": false, "0177.0.0.1": false, "localhost.": false,
	} {
		t.Run(host, func(t *testing.T) {
			t.Parallel()
			if !sent {
				c := script{text: greet}.dial(t, Config{Host: host})
				check(t, c.Login(t.Context(), "user", "pencil"), ErrInsecure)
			}
			const login = "C: p1 LOGIN user pencil\nS: p1 OK [CAPABILITY X] hi"
			c := script{text: greet + login}.dial(t, Config{Host: host, Insecure: !sent})
			check(t, c.Login(t.Context(), "user", "pencil"), nil)
		})
	}
}

// TestSecretsStaySecret: even a server that repeats a password does not get it into an error or a log.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	const password = `Pen"cil-7` //nolint:gosec // G101: the test's own
	for _, tt := range []struct{ greeting, login, echo string }{
		{"AUTH=PLAIN SASL-IR", "C: p1 AUTHENTICATE PLAIN AHVzZXIAUGVuImNpbC03", `S: p1 BAD unknown: PLAIN AHVzZXIAUGVuImNpbC03`},
		{"AUTH=PLAIN SASL-IR", "C: p1 AUTHENTICATE PLAIN AHVzZXIAUGVuImNpbC03", `S: p1 NO wrong password Pen"cil-7`},
		{"X", `C: p1 LOGIN user "Pen\"cil-7"`, `S: p1 BAD unknown: LOGIN user "Pen\"cil-7"`},
		{"X", `C: p1 LOGIN user "Pen\"cil-7"`, `S: * BYE PEN"CIL-7 is no password`},
		{"X", `C: p1 LOGIN user "Pen\"cil-7"`, `S: p1 NO [Pen"cil-7] wrong`},
		{"X", `C: p1 LOGIN user "Pen\"cil-7"`, `S: Pen-cil-7 NO wrong`},
		{"X", `C: p1 LOGIN user "Pen\"cil-7"`, `S: * Pen-cil-7 "`},
	} {
		t.Run(tt.echo, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			cfg := Config{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug - 100}))}
			c := script{text: "S: * OK [CAPABILITY " + tt.greeting + "] hi\n" + tt.login + "\n" + tt.echo + "\nEOF:"}.dial(t, cfg)
			err := c.Login(t.Context(), "user", password)
			if err == nil {
				t.Fatal("no error")
			}
			said := err.Error() + log.String()
			if err := c.Login(t.Context(), "user", password); err != nil {
				said += err.Error()
			}
			for _, secret := range []string{"cil-7", "AHVzZXIA"} {
				if strings.Contains(strings.ToLower(said), strings.ToLower(secret)) {
					t.Errorf("the password is in %q", said)
				}
			}
		})
	}
}

func TestResponseErrorIsBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("ä", 5000)
	c := play(t, greetAll+"C: p1 ID NIL\nS: p1 NO ["+strings.Repeat("X", 5000)+"] \x1b[31m"+long)
	_, err := c.ID(t.Context(), nil)
	r, ok := errors.AsType[*ResponseError](err)
	if !ok || r.Code != "" || len(r.Text) > maxErrorText || len(err.Error()) > 2*maxErrorText || strings.Contains(err.Error(), "\x1b") {
		t.Fatalf("error %v", err)
	}
}
