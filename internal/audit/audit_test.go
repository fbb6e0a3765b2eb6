package audit

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/posthorn-mail/posthorn/internal/db"
	"github.com/posthorn-mail/posthorn/internal/testpeer"
)

func newLog(t *testing.T, url string, keep time.Duration) *Log {
	t.Helper()
	d, err := db.Open(t.Context(), url, db.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	l, err := New(Config{DB: d, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Metrics: prometheus.NewRegistry(), Now: time.Now, Keep: keep})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// lost is how many entries are counted as lost.
func lost(t *testing.T, l *Log) float64 {
	t.Helper()
	families, err := l.Metrics.(*prometheus.Registry).Gather()
	if err != nil || len(families) != 1 || families[0].GetName() != "posthorn_audit_dropped_total" {
		t.Fatal(families, err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

// run runs the log until it is told to stop, and waits for its end.
func run(t *testing.T, l *Log) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestWriteAndList(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		l := newLog(t, url, time.Hour)
		stop := run(t, l)
		now := time.Now().Truncate(time.Millisecond)
		for i := range 10 {
			l.Write(t.Context(), Entry{
				At: now.Add(time.Duration(i-10) * time.Minute), Actor: fmt.Sprintf("user %d@%d", i, i%3+1), Act: []string{"sign_in", "user.add", "user.remove"}[i%3],
				Subject: fmt.Sprintf("%d@%d", i, i%3+1), Context: int64(i%3 + 1), Address: "192.0.2.7", Outcome: OK, Detail: strings.Repeat("x", 600*(i%2)),
			})
		}
		l.Write(t.Context(), Entry{At: now.Add(-2 * time.Hour), Act: "old"})
		stop() // what was written before is there
		stop = run(t, l)
		defer stop()
		l.Write(t.Context(), Entry{Act: "now", Outcome: Refused})
		if all, _, err := l.List(t.Context(), Query{Act: "now"}); err != nil || len(all) != 1 || all[0].Outcome != Refused {
			t.Fatalf("%+v, %v", all, err)
		}
		if err := l.DB.Write(t.Context(), func(ctx context.Context, tx *db.Tx) error {
			_, err := tx.Exec(ctx, "DELETE FROM audit WHERE act = 'now'")
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(10 * time.Second); ; { // what is old goes at each start
			all, _, err := l.List(t.Context(), Query{Act: "old"})
			if err != nil {
				t.Fatal(err)
			}
			if len(all) == 0 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatal("what is old stays")
			}
		}
		for _, c := range []struct {
			q    Query
			want []int
		}{
			{Query{}, []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}},
			{Query{Context: 2}, []int{7, 4, 1}},
			{Query{Contexts: []int64{3, 1}}, []int{9, 8, 6, 5, 3, 2, 0}},
			{Query{Contexts: []int64{3, 1}, Context: 2}, nil},
			{Query{Contexts: []int64{}}, nil}, // whoever has no context sees nothing
			{Query{Contexts: []int64{11}}, nil},
			{Query{Subject: "4@2"}, []int{4}},
			{Query{Act: "sign_in"}, []int{9, 6, 3, 0}},
			{Query{Act: "user."}, []int{8, 7, 5, 4, 2, 1}},
			{Query{Act: "user"}, nil},
			{Query{Since: now.Add(-3 * time.Minute)}, []int{9, 8, 7}},
			{Query{Until: now.Add(-8 * time.Minute)}, []int{1, 0}},
			{Query{Since: now.Add(-5 * time.Minute), Until: now.Add(-3 * time.Minute)}, []int{6, 5}},
			{Query{Limit: 3}, []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}},
			{Query{Limit: 2, Act: "user.", Until: now}, []int{8, 7, 5, 4, 2, 1}},
		} {
			var got []int
			for pages := 0; ; pages++ {
				all, next, err := l.List(t.Context(), c.q)
				if err != nil || c.q.Limit > 0 && len(all) > c.q.Limit {
					t.Fatal(all, err)
				}
				for _, e := range all {
					var i int
					if _, err := fmt.Sscanf(e.Actor, "user %d@", &i); err != nil {
						t.Fatal(err)
					}
					got = append(got, i)
					if !e.At.Equal(now.Add(time.Duration(i-10)*time.Minute)) || len(e.Detail) > maxText || e.Outcome != OK || e.Address != "192.0.2.7" {
						t.Errorf("%+v", e)
					}
				}
				if c.q.After = next; next == "" {
					break
				}
			}
			if !slices.Equal(got, c.want) {
				t.Errorf("%+v: %v, want %v", c.q, got, c.want)
			}
		}
	})
}

// Nobody waits for the log: what it cannot take is counted.
func TestFull(t *testing.T) {
	t.Parallel()
	l := newLog(t, testpeer.SQLiteURL(t), time.Hour)
	for range maxQueued + 7 {
		l.Write(t.Context(), Entry{Act: "sign_in"})
	}
	if n := lost(t, l); n != 7 {
		t.Errorf("%v are lost, want 7", n)
	}
	run(t, l)()
	var n int
	if err := l.DB.QueryRow(t.Context(), "SELECT COUNT(*) FROM audit").Scan(&n); err != nil || n != maxQueued {
		t.Errorf("%d entries, %v", n, err)
	}
}

// A database that is away holds up the end for as long as it takes to say so.
func TestDatabaseAway(t *testing.T) {
	t.Parallel()
	l := newLog(t, testpeer.SQLiteURL(t), time.Hour)
	if err := l.DB.Close(); err != nil {
		t.Fatal(err)
	}
	l.Write(t.Context(), Entry{Act: "sign_in"})
	stop := run(t, l)
	for len(l.queue) > 0 {
		<-time.After(time.Millisecond)
	}
	stop()
	if n := lost(t, l); n != 1 {
		t.Errorf("%v are lost, want 1", n)
	}
}

// What others say is kept as one line of text, whatever it is: neither does it hold up what comes after it, nor does it
// look like another entry.
func TestForeignText(t *testing.T) {
	t.Parallel()
	testpeer.EachDatabase(t, func(t *testing.T, url string) {
		l := newLog(t, url, time.Hour)
		defer run(t, l)()
		long := strings.Repeat("ä", 1000)
		l.Write(t.Context(), Entry{Act: "bad", Actor: "\xff\x00", Subject: "a\nb\x1b[2Jc\u202ed\u2028e", Outcome: "\xff", Address: "fe80::1%\x00", Detail: "x" + long})
		l.Write(t.Context(), Entry{Act: "bad", Subject: long, Actor: long, Address: long})
		l.Write(t.Context(), Entry{Act: "good", Detail: "Zoë's 👩‍💻"})
		all, _, err := l.List(t.Context(), Query{})
		if err != nil || len(all) != 3 {
			t.Fatalf("%+v, %v", all, err)
		}
		if e := all[0]; e.Detail != "Zoë's 👩‍💻" {
			t.Errorf("%+v", e)
		}
		for _, e := range all {
			for _, text := range []string{e.Actor, e.Subject, e.Address, e.Detail} {
				if len(text) > maxText || !utf8.ValidString(text) || strings.ContainsAny(text, "\x00\n\x1b\u202e\u2028") {
					t.Errorf("%q", text)
				}
			}
		}
		// Nor do questions of any text fail.
		for _, q := range []Query{{Act: "\xff."}, {Subject: "\x00"}, {After: "\xff\x00"}} {
			if _, _, err := l.List(t.Context(), q); err != nil {
				t.Errorf("%+v: %v", q, err)
			}
		}
	})
}
