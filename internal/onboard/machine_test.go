package onboard

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/posthorn-mail/posthorn/internal/push"
)

// app is a transport that has credentials and nothing else.
type app struct {
	push.Transport
	ends []time.Time
}

func (app) Name() string { return "apns" }

func (a app) Watch() (all []push.Watched) {
	for _, e := range a.ends {
		all = append(all, push.Watched{Credential: push.Credential{Name: "com.example.mail", Expires: e}})
	}
	return all
}

func TestServer(t *testing.T) {
	t.Parallel()
	d := newDoctor(t)
	day := 24 * time.Hour
	d.Transports = []push.Transport{app{ends: []time.Time{{}, time.Now().Add(90 * day), time.Now().Add(20 * day), time.Now().Add(-day)}}}
	reports, err := d.Examine(t.Context(), Request{})
	if err != nil || len(reports) != 1 {
		t.Fatal(reports, err)
	}
	r := reports[0]
	r.want(t, "database", OK, "answers in")
	r.want(t, "listeners", OK, "3 registered")
	r.want(t, "open_files", OK, "with 0 connections")
	var got []string
	for _, c := range r.Checks {
		if c.Name == "credential" {
			detail, _, _ := strings.Cut(c.Detail, " on ")
			got = append(got, string(c.State)+" "+detail)
		}
	}
	want := "ok apns com.example.mail: does not end|ok apns com.example.mail: ends|warning apns com.example.mail: ends|failed apns com.example.mail: ended"
	if strings.Join(got, "|") != want {
		t.Errorf("%q, want %q", got, want)
	}
	if r.All() {
		t.Error("a credential has ended, and all is well")
	}

	d.Ping = func(context.Context) error { return errors.New("connection refused") }
	d.Listeners = func(context.Context) (map[string]int, error) {
		return map[string]int{"registered": 3, "pending": 1, "foreign": 0}, nil
	}
	reports, _ = d.Examine(t.Context(), Request{})
	reports[0].want(t, "database", Failed, "connection refused")
	reports[0].want(t, "listeners", Warning, "1 pending, 3 registered")
}

func TestBus(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		nodes []Node
		err   error
		want  State
		say   string
	}{
		"cluster":      {[]Node{{Name: "b", Owns: true}, {Name: "a"}}, nil, OK, "nodes: a, b; taking permanent listeners: 1"},
		"nobody owns":  {[]Node{{Name: "a"}}, nil, Warning, "allow_permanent_push"},
		"ignored":      {[]Node{{Name: "a", Owns: true}, {Name: "b", Ignored: "another key"}}, nil, Failed, "node b is ignored: another key"},
		"disconnected": {nil, errors.New("no route"), Failed, "not connected: no route"},
	} {
		d := Doctor{Bus: func() error { return tc.err }, Nodes: func() []Node { return tc.nodes }}
		c := d.bus(t.Context())
		if c.State != tc.want || !strings.Contains(c.Detail+c.Do, tc.say) {
			t.Errorf("%s: %+v, want %s and %q", name, c, tc.want, tc.say)
		}
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		got  Check
		want State
		say  string
	}{
		"files":             {judgeFiles(20_000, 15_000), OK, "at most 20000"},
		"files, just":       {judgeFiles(16_000, 15_000), OK, ""},
		"files, too few":    {judgeFiles(15_999, 15_000), Failed, "LimitNOFILE=32000"},
		"ports":             {judgePorts(25_000, 1, 28_232), OK, ""},
		"ports, too few":    {judgePorts(28_000, 1, 28_232), Warning, "ip_local_port_range"},
		"ports, two places": {judgePorts(28_000, 2, 28_232), OK, ""},
		"inotify":           {judgeInotify(128, 128), OK, ""},
		"inotify, too few":  {judgeInotify(129, 128), Warning, "max_user_instances = 258"},
	} {
		if tc.got.State != tc.want || !strings.Contains(tc.got.Detail+tc.got.Do, tc.say) {
			t.Errorf("%s: %+v, want %s and %q", name, tc.got, tc.want, tc.say)
		}
	}
	if readSysctl("no/such/thing") != "" {
		t.Error("a setting that is not there has a value")
	}
}
