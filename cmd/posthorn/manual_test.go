package main

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

var manual = flag.String("manual", "", "write the manual pages into `DIR`")

// TestManualPages makes a page of each command, as the packages bring them. It is a test and not a command, so that
// the program does not carry what makes them.
func TestManualPages(t *testing.T) {
	dir := *manual
	if dir == "" {
		dir = t.TempDir()
	}
	root := (&cli{env: map[string]string{}}).root()
	root.DisableAutoGenTag = true // its date would be today's; that of the page is SOURCE_DATE_EPOCH
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "Posthorn", Manual: "Posthorn"}, dir); err != nil {
		t.Fatal(err)
	}
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		if !cmd.IsAvailableCommand() && cmd != root || cmd.Name() == "help" {
			return
		}
		page, err := os.ReadFile(filepath.Join(dir, strings.ReplaceAll(cmd.CommandPath(), " ", "-")+".1")) //nolint:gosec // the test's own
		if err != nil || !strings.Contains(string(page), ".SH SYNOPSIS") {
			t.Errorf("%s has no page: %v", cmd.CommandPath(), err)
		}
		for _, sub := range cmd.Commands() {
			visit(sub)
		}
	}
	visit(root)
}
