package imap

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestLoginAs(t *testing.T) {
	t.Parallel()
	c := play(t, "S: * OK [CAPABILITY AUTH=PLAIN SASL-IR] hi\nC: p1 AUTHENTICATE PLAIN "+b64("ann\x00master\x00pencil")+
		"\nS: p1 OK [CAPABILITY IMAP4rev1] in")
	check(t, c.LoginAs(t.Context(), "ann", "master", "pencil"), nil)
	c = play(t, "S: * OK [CAPABILITY AUTH=PLAIN] hi\nC: p1 AUTHENTICATE PLAIN\nS: +\nC: "+b64("ann\x00master\x00pencil")+
		"\nS: p1 NO [AUTHORIZATIONFAILED] no")
	check(t, c.LoginAs(t.Context(), "ann", "master", "pencil"), ErrAuth)
	c = play(t, "S: * OK [CAPABILITY IMAP4rev1] hi")
	check(t, c.LoginAs(t.Context(), "ann", "master", "pencil"), ErrUnsupported)
	check(t, c.LoginAs(t.Context(), "", "master", "pencil"), ErrAuth)
	check(t, c.LoginAs(t.Context(), "ann\x00", "master", "pencil"), ErrAuth)
}

func TestLoginToken(t *testing.T) {
	t.Parallel()
	const token = "ya29.vF9dft4qmTc2Nvb3RlckBhdHRhdmlzdGEuY29t" //nolint:gosec // G101: of nobody
	bearer := b64("n,a=ann=2Cx@x.org,\x01host=127.0.0.1\x01port=143\x01auth=Bearer " + token + "\x01\x01")
	xoauth := b64("user=ann,x@x.org\x01auth=Bearer " + token + "\x01\x01")
	for _, tt := range []struct {
		name, script string
		want         error
		text         string // in the error
	}{
		{"bearer", "S: * OK [CAPABILITY AUTH=OAUTHBEARER AUTH=XOAUTH2 SASL-IR] hi\nC: p1 AUTHENTICATE OAUTHBEARER " + bearer + "\nS: p1 OK [CAPABILITY X] in", nil, ""},
		{"xoauth2", "S: * OK [CAPABILITY AUTH=XOAUTH2] hi\nC: p1 AUTHENTICATE XOAUTH2\nS: +\nC: " + xoauth + "\nS: p1 OK [CAPABILITY X] in", nil, ""},
		{
			"bearer refused", "S: * OK [CAPABILITY AUTH=OAUTHBEARER SASL-IR] hi\nC: p1 AUTHENTICATE OAUTHBEARER " + bearer + "\nS: + " +
				b64(`{"status":"invalid_token","scope":"mail"}`) + "\nC: AQ==\nS: p1 NO [AUTHENTICATIONFAILED] no", ErrAuth, `status "invalid_token"`,
		},
		{
			"xoauth2 refused", "S: * OK [CAPABILITY AUTH=XOAUTH2 SASL-IR] hi\nC: p1 AUTHENTICATE XOAUTH2 " + xoauth + "\nS: + " +
				b64(`{"status":"400","schemes":"Bearer"}`) + "\nC: \nS: p1 NO SASL authentication failed", ErrAuth, `status "400"`,
		},
		{
			"issuer is out", "S: * OK [CAPABILITY AUTH=XOAUTH2 SASL-IR] hi\nC: p1 AUTHENTICATE XOAUTH2 " + xoauth + "\nS: + " +
				b64(`{"status":"503"}`) + "\nC: \nS: p1 NO failed", errAny, `status "503"`,
		},
		{"server is out", "S: * OK [CAPABILITY AUTH=XOAUTH2 SASL-IR] hi\nC: p1 AUTHENTICATE XOAUTH2 " + xoauth + "\nS: p1 NO [UNAVAILABLE] later", errAny, "later"},
		{
			"tells the token", "S: * OK [CAPABILITY AUTH=XOAUTH2 SASL-IR] hi\nC: p1 AUTHENTICATE XOAUTH2 " + xoauth + "\nS: + " +
				b64(`{"status":"not `+token+`"}`) + "\nC: \nS: p1 NO not " + token, ErrAuth, "withheld",
		},
		{"no JSON", "S: * OK [CAPABILITY AUTH=XOAUTH2 SASL-IR] hi\nC: p1 AUTHENTICATE XOAUTH2 " + xoauth + "\nS: + x\nC: \nS: p1 NO no", ErrAuth, "no"},
		{"not offered", "S: * OK [CAPABILITY AUTH=PLAIN] hi", ErrInsecure, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := script{text: tt.script}.dial(t, Config{})
			err := c.LoginToken(t.Context(), "ann,x@x.org", token)
			check(t, err, tt.want)
			if errors.Is(tt.want, errAny) && errors.Is(err, ErrAuth) {
				t.Errorf("an outage is taken for a verdict: %v", err)
			}
			if err != nil && (!strings.Contains(err.Error(), tt.text) || strings.Contains(err.Error(), token)) {
				t.Errorf("error %v", err)
			}
		})
	}
	c := play(t, "S: * OK [CAPABILITY AUTH=XOAUTH2] hi")
	for _, bad := range []string{"", "a b", "a\x01", strings.Repeat("x", maxToken+1)} {
		check(t, c.LoginToken(t.Context(), "ann", bad), ErrAuth)
	}
	_, roots := certificate()
	c = script{text: "TLS:\nS: * OK [CAPABILITY AUTH=PLAIN] hi"}.dial(t, Config{Security: SecurityTLS, RootCAs: roots})
	check(t, c.LoginToken(t.Context(), "ann", token), ErrUnsupported)
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]bool{
		"Maximum number of connections from user+IP exceeded (mail_max_userip_connections=1)": true,
		"Too many simultaneous connections. (Failure)":                                        true,
		"Authentication failed.": false,
	} {
		if e := (&ResponseError{Status: "NO", Text: text}); e.TooManyConnections() != want {
			t.Errorf("%s: %v", text, !want)
		}
	}
	if e := (&ResponseError{Status: "NO", Code: "LIMIT"}); !e.TooManyConnections() {
		t.Error("LIMIT")
	}
}
