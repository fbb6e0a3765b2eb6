package server_test

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/server"
)

// TestUpgradeIsReportedOnce: the first start after the upgrade says for how many contexts the app stays on, the next one
// does not.
func TestUpgradeIsReportedOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t, sqliteURL(t), "login")
	for i, want := range []int{0, 1, 0} {
		cfg, _, err := config.Load(w.config, func(string) (string, bool) { return "", false })
		must(t, err)
		var logged bytes.Buffer
		s, err := server.New(t.Context(), cfg, server.Options{Log: slog.New(slog.NewTextHandler(&logged, nil))})
		must(t, err)
		must(t, s.Close(t.Context()))
		if n := strings.Count(logged.String(), "the app is off by default now, and stays on"); n != want {
			t.Errorf("start %d: said %d times, want %d:\n%s", i, n, want, &logged)
		}
		if i == 0 {
			w.exec("INSERT INTO properties VALUES ('context', '1', 'capability.mobile_mail_app', 'true', 'upgrade', 1790000000000)")
		}
	}
}
