package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestWithPort(t *testing.T) {
	for in, want := range map[string]string{
		"imap.example.org":       "imap.example.org:993",
		"imap.example.org:1143":  "imap.example.org:1143",
		"192.0.2.1":              "192.0.2.1:993",
		"2001:db8::1":            "[2001:db8::1]:993",
		"[2001:db8::1]:143":      "[2001:db8::1]:143",
		"imap.example.org:":      "",
		"imap.example.org:0":     "",
		"imap.example.org:99999": "",
		":993":                   "",
		"a:b:c":                  "",
	} {
		got, err := withPort(in, "993")
		if got != want || (err != nil) != (want == "") {
			t.Errorf("withPort(%q) = %q, %v; want %q", in, got, err, want)
		}
	}
}

func TestNotifyURL(t *testing.T) {
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		listen, login, password, want string
		everywhere                    bool
	}{
		{"127.0.0.1:8009", "posthorn", "PASSWORD", "http://posthorn:PASSWORD@127.0.0.1:8009" + notifyPath, false},
		{"[::1]:8009", "", "", "http://[::1]:8009" + notifyPath, false},
		{"10.1.2.3:80", "l%us er", "p@s:s/w#$é", "http://l%25us%20er:p%40s%3As%2Fw%23%24%C3%A9@10.1.2.3:80" + notifyPath, false},
		{":8009", "a", "b", "http://a:b@" + host + ":8009" + notifyPath, true},
		{"0.0.0.0:8009", "a", "b", "http://a:b@" + host + ":8009" + notifyPath, true},
		{"[::]:8009", "a", "b", "http://a:b@" + host + ":8009" + notifyPath, true},
	} {
		got, everywhere := notifyURL(tt.listen, tt.login, tt.password)
		if got != tt.want || everywhere != tt.everywhere {
			t.Errorf("notifyURL(%q) = %q, %v; want %q, %v", tt.listen, got, everywhere, tt.want, tt.everywhere)
		}
	}
}

func TestWhen(t *testing.T) {
	c := &cli{now: func() time.Time { return time.Date(2026, 11, 22, 4, 0, 0, 0, time.UTC) }}
	for in, want := range map[string]string{
		"2026-11-22T03:59:58.500Z":  "(1 s ago)",
		"2026-11-22T03:57:00Z":      "(3 min ago)",
		"2026-11-22T09:00:00+05:00": "(0 s ago)",
		"2026-11-20T23:00:00Z":      "(1 d ago)",
		"2026-11-22T06:30:00Z":      "(in 2 h)",
		"":                          "",
		"soon":                      "soon",
	} {
		if got := c.when(in); !strings.HasSuffix(got, want) || (want == "") != (got == "") {
			t.Errorf("when(%q) = %q, want … %q", in, got, want)
		}
	}
}

// TestCellsCannotSteer gives a table what a hostile mail server could make a reason of.
func TestCellsCannotSteer(t *testing.T) {
	var out bytes.Buffer
	c := &cli{stdout: &out}
	err := table[string]{header: []string{"REASON"}, row: func(s string) []string { return []string{s} }}.
		print(c, []string{"\x1b[2J\r\tline\nline\u202e"})
	if err != nil || out.String() != "REASON\n\uFFFD[2J\uFFFD\uFFFDline\uFFFDline\uFFFD\n" {
		t.Errorf("printed %q, %v", out.String(), err)
	}
}

func TestReadSecret(t *testing.T) {
	long := strings.Repeat("x", 5000)
	for in, want := range map[string]string{
		"secret\n": "secret", "secret\r\n": "secret", "two words ": "two words ",
		"": "", "\n": "", "a\nb\n": "", "a\x00": "", long: "",
	} {
		c := &cli{stdin: strings.NewReader(in)}
		got, err := c.readSecret("-")
		if got != want || (err != nil) != (want == "") {
			t.Errorf("readSecret of %.20q = %q, %v; want %q", in, got, err, want)
		}
	}
	if _, err := new(cli).readSecret(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file gives %v", err)
	}
}

// TestRunIsSelfContained runs two commands side by side: nothing is kept outside of a run.
func TestRunIsSelfContained(t *testing.T) {
	done := make(chan string)
	for _, dir := range []string{"one", "two"} {
		go func() {
			var out, errs bytes.Buffer
			code := run(context.Background(), []string{"pushusers"}, nil, &out, &errs, []string{"POSTHORN_STATE_DIR=/nowhere/" + dir})
			if code != exitNoServer || out.Len() > 0 || !strings.Contains(errs.String(), "/nowhere/"+dir+"/admin.sock") {
				done <- errs.String()
				return
			}
			done <- ""
		}()
	}
	for range 2 {
		if problem := <-done; problem != "" {
			t.Error(problem)
		}
	}
}

// TestBrokenPipe is "posthorn … | head": the reader is gone, and that is an error, not a success.
func TestBrokenPipe(t *testing.T) {
	var errs bytes.Buffer
	if code := run(context.Background(), []string{"version"}, nil, brokenPipe{}, &errs, nil); code != exitError {
		t.Errorf("exit code %d, want %d", code, exitError)
	}
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }
