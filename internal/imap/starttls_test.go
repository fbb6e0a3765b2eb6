package imap

import (
	"crypto/x509"
	"errors"
	"strings"
	"testing"
)

func TestTLS(t *testing.T) {
	t.Parallel()
	const (
		inTLS = "S: * OK [CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR] hi\n"
		offer = "S: * OK [CAPABILITY IMAP4rev1 STARTTLS XFORGED] hi\nC: p1 STARTTLS\n"
		again = "C: p2 CAPABILITY\nS: * CAPABILITY IMAP4rev1 AUTH=PLAIN SASL-IR\nS: p2 OK done\n"
	)
	_, roots := certificate()
	for _, tt := range []struct {
		name, security, script string
		cfg                    Config
		want                   string // part of the error
	}{
		{name: "implicit", security: SecurityTLS, script: "TLS:\n" + inTLS, cfg: Config{RootCAs: roots}},
		{name: "implicit, by name", security: SecurityTLS, script: "TLS:\n" + inTLS, cfg: Config{RootCAs: roots, Host: "example.com"}},
		{name: "implicit, unverified by order", security: SecurityTLS, script: "TLS:\n" + inTLS, cfg: Config{Insecure: true, Host: "wrong.example.org"}},
		{name: "implicit, unknown authority", security: SecurityTLS, script: "TLS:", cfg: Config{RootCAs: x509.NewCertPool()}, want: "unknown authority"},
		{name: "implicit, wrong name", security: SecurityTLS, script: "TLS:", cfg: Config{RootCAs: roots, Host: "wrong.example.org"}, want: "not wrong.example.org"},
		{name: "implicit, server without TLS", security: SecurityTLS, script: "S: * OK hi\nEOF:", cfg: Config{RootCAs: roots}, want: "encrypt: "},

		{name: "starttls", security: SecuritySTARTTLS, script: offer + "S: p1 OK go\nTLS:\n" + again, cfg: Config{RootCAs: roots}},
		{
			name: "starttls, capabilities on demand", security: SecuritySTARTTLS, cfg: Config{RootCAs: roots},
			script: "S: * OK hi\nC: p1 CAPABILITY\nS: * CAPABILITY STARTTLS\nS: p1 OK done\nC: p2 STARTTLS\nS: p2 OK go\nTLS:\n" +
				strings.ReplaceAll(again, "p2", "p3"),
		},
		{name: "starttls, unknown authority", security: SecuritySTARTTLS, script: offer + "S: p1 OK go\nTLS:", cfg: Config{RootCAs: x509.NewCertPool()}, want: "unknown authority"},
		{name: "starttls, not offered", security: SecuritySTARTTLS, script: "S: * OK [CAPABILITY IMAP4rev1] hi", want: ErrUnsupported.Error()},
		{name: "starttls, refused", security: SecuritySTARTTLS, script: offer + "S: p1 NO not now", want: `server says NO "not now"`},
		{name: "starttls, preauth", security: SecuritySTARTTLS, script: "S: * PREAUTH [CAPABILITY STARTTLS] hi", want: "before TLS"},
		{
			name: "starttls, response injected", security: SecuritySTARTTLS, want: "more before TLS",
			script: offer + `R: "p1 OK go\r\n* CAPABILITY IMAP4rev1 AUTH=PLAIN\r\np2 OK injected\r\n"`, cfg: Config{RootCAs: roots},
		},
		{name: "starttls, one byte injected", security: SecuritySTARTTLS, script: offer + `R: "p1 OK go\r\n*"`, cfg: Config{RootCAs: roots, Insecure: true}, want: "more before TLS"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.cfg.Security = tt.security
			text := tt.script
			if tt.want == "" {
				tag := map[bool]string{true: "p1", false: "p3"}[tt.security == SecurityTLS]
				if strings.Contains(text, "p3") {
					tag = "p4"
				}
				text += "C: " + tag + " AUTHENTICATE PLAIN AHVzZXIAcGVuY2ls\nS: " + tag + " OK [CAPABILITY X] hi"
			}
			c, err := Dial(t.Context(), script{text: text}.serve(t, tt.cfg))
			if tt.want != "" {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Fatalf("error %v, want %q", err, tt.want)
				}
				if errors.Is(err, ErrAuth) {
					t.Fatalf("%v is taken for a wrong password", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if c.Has("XFORGED") || c.Has("STARTTLS") {
				t.Error("capabilities from before TLS are believed")
			}
			check(t, c.Login(t.Context(), "user", "pencil"), nil)
		})
	}
}

// TestLoginDisabledUnderTLS: no way to give a password, though nobody could read it.
func TestLoginDisabledUnderTLS(t *testing.T) {
	t.Parallel()
	_, roots := certificate()
	c := script{text: "TLS:\nS: * OK [CAPABILITY IMAP4rev1 LOGINDISABLED AUTH=XOAUTH2] hi"}.dial(t, Config{Security: SecurityTLS, RootCAs: roots})
	check(t, c.Login(t.Context(), "user", "pencil"), ErrUnsupported)
}
