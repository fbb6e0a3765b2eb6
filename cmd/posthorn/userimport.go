package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

func (c *cli) userImport() *cobra.Command {
	var (
		format                string
		dryRun, makesContexts bool
	)
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Add the users of a CSV or JSON lines file who are not there yet",
		Long: "Add the users of FILE (- is standard input) who are not there yet. CSV begins with a line that names the columns:\n" +
			"context (number or name), user (a number, 3@1, or nothing to have one assigned), login and mailhost. JSON lines\n" +
			"have members of these names. Lines that are good are done, the others are told with what is wrong; a second\n" +
			"import of the same file changes nothing.",
		Example: "  posthorn user import users.csv --dry-run\n" +
			"  posthorn user import users.csv --create-contexts\n" +
			"  posthorn user import - --format jsonl --json",
		Args: operands("FILE"),
		RunE: func(cmd *cobra.Command, args []string) error {
			media, err := importMedia(args[0], format)
			if err != nil {
				return err
			}
			q := url.Values{}
			if dryRun {
				q.Set("dry_run", "1")
			}
			if makesContexts {
				q.Set("create_contexts", "1")
			}
			in, size := c.stdin, int64(0)
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fmt.Errorf("open the file: %w", err)
				}
				defer f.Close() //nolint:errcheck // only read from
				if info, err := f.Stat(); err == nil {
					size = info.Size()
				}
				in = f
			}
			return c.importUsers(cmd.Context(), in, size, media, q)
		},
	}
	cmd.Flags().StringVar(&format, "format", "", "`FORMAT` of the file: csv or jsonl (default by its name, else csv)")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done, and keep nothing")
	cmd.Flags().BoolVar(&makesContexts, "create-contexts", false, "add contexts that lines name and that are not there")
	c.jsonFlag(cmd)
	return cmd
}

func importMedia(file, format string) (string, error) {
	switch format {
	case "csv":
		return "text/csv", nil
	case "jsonl":
		return "application/x-ndjson", nil
	case "":
		if ext := filepath.Ext(file); ext == ".jsonl" || ext == ".ndjson" {
			return "application/x-ndjson", nil
		}
		return "text/csv", nil
	}
	return "", usagef("--format %s: say csv or jsonl", format)
}

func (c *cli) importUsers(ctx context.Context, in io.Reader, size int64, media string, q url.Values) error {
	dir, err := c.stateDir()
	if err != nil {
		return err
	}
	p := &importProgress{in: in, size: size, started: c.now()}
	stop := c.showProgress(p)
	var report api.ImportReport
	err = api.NewAdminClient(dir).Send(ctx, http.MethodPost, usersPath+"/import", q, media, p, &report)
	stop()
	if err != nil {
		return err
	}
	if c.json {
		if err := c.printJSON(report); err != nil {
			return err
		}
	} else {
		for _, e := range report.Errors {
			where := strings.TrimSpace(fmt.Sprintf("line %d: %s", e.Line, e.Field))
			if err := c.say("%s: %s", printable(where), printable(e.Detail)); err != nil {
				return err
			}
		}
		if left := report.Failed - len(report.Errors); left > 0 {
			_ = c.say("and %d lines more", left)
		}
		verb := "added"
		if report.DryRun {
			verb = "would be added"
		}
		text := fmt.Sprintf("%d users %s, unchanged: %d, failed: %d.", report.Added, verb, report.Unchanged, report.Failed)
		if n := len(report.ContextsAdded); n > 0 {
			text += fmt.Sprintf(" Contexts %s: %d.", verb, n)
		}
		if err := c.done(nil, "%s", text); err != nil {
			return err
		}
	}
	if report.Failed > 0 {
		return errReported
	}
	return nil
}

// importProgress is a file on its way: how much of it the server has taken.
type importProgress struct {
	in      io.Reader
	size    int64 // 0 when it is not known
	started time.Time

	bytes, lines atomic.Int64
}

func (p *importProgress) Read(b []byte) (int, error) {
	n, err := p.in.Read(b[:min(len(b), 16<<10)]) // what is read ahead of the server is shown as done
	p.bytes.Add(int64(n))
	p.lines.Add(int64(bytes.Count(b[:n], []byte("\n"))))
	return n, err
}

// line says how far it is.
func (p *importProgress) line(now time.Time) string {
	passed := now.Sub(p.started).Seconds()
	lines, read := p.lines.Load(), p.bytes.Load()
	if passed <= 0 {
		return fmt.Sprintf("%d lines", lines)
	}
	text := fmt.Sprintf("%d lines, %.0f users/s", lines, float64(lines)/passed)
	if p.size > 0 && read > 0 {
		part := min(1, float64(read)/float64(p.size))
		const width = 20
		full := int(part * width)
		text = fmt.Sprintf("[%s%s] %3.0f %%  %s, %.0f s left", strings.Repeat("#", full), strings.Repeat(".", width-full), part*100, text,
			passed/part-passed)
	}
	return text
}

// showProgress writes the progress to stderr until the function it returns is called: in place on a terminal, elsewhere as a
// line now and then.
func (c *cli) showProgress(p *importProgress) (stop func()) {
	every, form := 10*time.Second, "%s\n"
	terminal := isTerminal(c.stderr)
	if terminal {
		every, form = 200*time.Millisecond, "\r%s\x1b[K"
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = fmt.Fprintf(c.stderr, form, p.line(c.now()))
			case <-end:
				if terminal {
					_, _ = fmt.Fprint(c.stderr, "\r\x1b[K")
				}
				return
			}
		}
	}()
	return func() {
		close(end)
		<-ended
	}
}
