package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/posthorn-mail/posthorn/internal/config"
	"github.com/posthorn-mail/posthorn/internal/original"
	"github.com/posthorn-mail/posthorn/internal/server"
)

// The report beside the configuration.
const (
	reportText = "import-report.txt"
	reportJSON = "import-report.json"
)

// importing is the flags of "config import".
type importing struct {
	dumps                []string
	logins, out          string
	firebase             string
	write                bool
	opts                 original.Options
	databaseURLFile, dir string
}

// importResult is what --json prints.
type importResult struct {
	*original.Report
	// Problems are what is wrong with the configuration that was made.
	Problems []string `json:"problems"`
	// Written says whether anything was written; without --write, nothing is.
	Written  bool             `json:"written"`
	Imported *server.Imported `json:"imported,omitempty"`

	reportFile string // where the text is
}

func (c *cli) configImport() *cobra.Command {
	var i importing
	cmd := &cobra.Command{
		Use:   "import DIR",
		Short: "Take over configuration, devices and users of the system before",
		Long: `Read a copy of the original system's configuration directory (/opt/open-xchange/etc) and make a configuration of
Posthorn of it, with a report of every key: taken, changed or dropped, and why. With dumps of its tables, users, their
devices, contexts and mail hosts are taken over as well.

Without --write, nothing is changed. With it, the files are written into --out, none is overwritten, and the rows
into the database, while no server runs. It may be run again, also after it was interrupted: what is there already
stays as it is.

A dump is what mysqldump makes of the tables mobileEventSubscriptions, pns_subscription, pns_subscription_topic_exact,
pns_subscription_topic_wildcard, user, login2user, context, contextAttribute and user_attribute; or of one of them what
"mysql --batch" prints, or CSV with the names of the columns; or a directory that mysqldump --tab has filled. It may be
compressed with gzip. A file of logins is CSV with the columns context, user, login and mailhost; it wins over the dump.

The exit code is 1 when anything needs your hand.`,
		Example: "  posthorn config import /srv/old/etc --dump users.sql.gz\n" +
			"  posthorn config import /srv/old/etc --dump users.sql.gz --imap-host imap.example.org --firebase service-account.json --write",
		Args: operands("DIR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			i.dir = args[0]
			return c.runImport(cmd.Context(), i)
		},
	}
	f := cmd.Flags()
	f.StringArrayVar(&i.dumps, "dump", nil, "a dump `FILE` of tables, or a directory of them; may be given several times")
	f.StringVar(&i.logins, "logins", "", "a `FILE` with the columns context, user, login, mailhost")
	f.StringVar(&i.out, "out", filepath.Dir(defaultConfigFile), "the `DIR` that the configuration is written into")
	f.BoolVar(&i.write, "write", false, "write files and rows; without it, only say what would be")
	f.StringVar(&i.opts.IMAPHost, "imap-host", "", "the mail server `HOST[:PORT]` of users for whom the files and dumps name none")
	f.StringVar(&i.opts.IMAPSecurity, "imap-security", "", "tls, starttls or none, for all mail servers (default by address and port)")
	f.StringVar(&i.opts.MasterLogin, "master-login", "", "the `LOGIN` of a master user at the mail servers, whose password is the original's masterPassword")
	f.StringVar(&i.opts.UserForm, "user-form", "", "login or metadata: what Dovecot sends as user; metadata with user_from_metadata")
	f.StringVar(&i.firebase, "firebase", "", "the service account `FILE` of Firebase, for Android devices")
	f.StringVar(&i.databaseURLFile, "database-url-file", "", "the `FILE` with the database's URL, as database.url_file (default SQLite in the state directory)")
	c.jsonFlag(cmd)
	return cmd
}

func (i *importing) check() error {
	oneOf := func(flag, value string, words ...string) error {
		if value == "" || slices.Contains(words, value) {
			return nil
		}
		return usagef("--%s %s: say %s", flag, value, strings.Join(words, " or "))
	}
	return errors.Join(oneOf("imap-security", i.opts.IMAPSecurity, "tls", "starttls", "none"), oneOf("user-form", i.opts.UserForm, "login", "metadata"))
}

func (c *cli) runImport(ctx context.Context, i importing) error {
	if err := i.check(); err != nil {
		return err
	}
	plan, err := c.readOriginal(ctx, &i)
	if err != nil {
		return err
	}
	result := importResult{Report: plan.Report, Problems: []string{}}
	if result.Problems, err = c.tryOut(plan, i.opts.StateDir); err != nil {
		return err
	}
	if i.write && len(result.Problems) == 0 {
		if err := c.writeImport(ctx, i, plan, &result); err != nil {
			return err
		}
	}
	if c.json {
		err = c.printJSON(result)
	} else {
		err = c.printImport(i, result)
	}
	if err == nil && (result.NeedsYou() > 0 || len(result.Problems) > 0 || result.Imported != nil && len(result.Imported.Refused) > 0) {
		err = errReported
	}
	return err
}

// readOriginal reads all that the flags name.
func (c *cli) readOriginal(ctx context.Context, i *importing) (*original.Plan, error) {
	var err error
	i.opts.Now = c.now()
	if i.opts.StateDir, err = c.namedStateDir(); err != nil {
		return nil, err
	}
	if i.databaseURLFile != "" {
		if i.opts.DatabaseURLFile, err = filepath.Abs(i.databaseURLFile); err != nil {
			return nil, err
		}
	}
	if i.firebase != "" {
		const most = 64 << 10 // bytes; a real one has 2.5 KiB
		if i.opts.ServiceAccount, err = readSmall(i.firebase, most); err != nil {
			return nil, fmt.Errorf("read the service account: %w", err)
		}
	}
	r, err := original.Open(i.dir, i.opts)
	if err != nil {
		return nil, err
	}
	for _, dump := range i.dumps {
		files, err := dumpFiles(dump)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			if err := c.readFile(ctx, file, r.Dump); err != nil {
				return nil, err
			}
		}
	}
	if i.logins != "" {
		if err := c.readFile(ctx, i.logins, r.Logins); err != nil {
			return nil, err
		}
	}
	return r.Plan()
}

func readSmall(file string, most int64) ([]byte, error) {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read from
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s is larger than %d bytes", file, most)
	}
	return data, err
}

// dumpFiles are the files of a --dump: itself, or those of a directory, as mysqldump --tab fills one. Those with CREATE TABLE come
// before those with rows alone.
func dumpFiles(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil || !info.IsDir() {
		return []string{path}, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var first, then []string
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".gz")
		switch filepath.Ext(name) {
		case ".sql":
			first = append(first, filepath.Join(path, e.Name()))
		case ".txt", ".tsv", ".csv":
			then = append(then, filepath.Join(path, e.Name()))
		}
	}
	if len(first)+len(then) == 0 {
		return nil, fmt.Errorf("%s has no dump in it: .sql, .txt, .tsv or .csv, each perhaps with .gz after it", path)
	}
	return append(first, then...), nil
}

// readFile has a dump read, and shows how far that is.
func (c *cli) readFile(ctx context.Context, file string, read func(name string, in io.Reader) error) error {
	f, err := os.Open(file) //nolint:gosec // the operator names the file
	if err != nil {
		return err
	}
	defer f.Close() //nolint:errcheck // only read from
	info, err := f.Stat()
	if err != nil {
		return err
	}
	const unit = 1 << 20
	bar := progress{c: c, on: !c.json && isTerminal(c.stderr) && info.Size() > 8*unit}
	defer bar.end()
	raw := bufio.NewReader(&watched{ctx: ctx, in: f, saw: func(n int64) { bar.show(int(n/unit), int(info.Size()/unit)) }})
	var in io.Reader = raw
	if magic, _ := raw.Peek(2); string(magic) == "\x1f\x8b" { // whatever its name is
		if in, err = gzip.NewReader(in); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
	return read(strings.TrimSuffix(filepath.Base(file), ".gz"), in)
}

// watched is a reader that ends with its context and tells how much was read.
type watched struct {
	ctx  context.Context //nolint:containedctx // of the one call that the reader lives for
	in   io.Reader
	n    int64
	next int64
	saw  func(int64)
}

func (w *watched) Read(p []byte) (int, error) {
	if err := w.ctx.Err(); err != nil {
		return 0, err
	}
	n, err := w.in.Read(p)
	if w.n += int64(n); w.n >= w.next {
		w.saw(w.n)
		w.next = w.n + 1<<20
	}
	return n, err
}

// tryOut says what is wrong with the configuration of a plan: it is loaded from a directory that only this user can
// read, and that is removed at once.
func (c *cli) tryOut(plan *original.Plan, stateDir string) ([]string, error) {
	dir, err := os.MkdirTemp("", "posthorn-import-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // nothing more can be done
	if _, err := writeFiles(dir, plan.Files); err != nil {
		return nil, err
	}
	found := []string{}
	say := func(all config.Problems) {
		for _, p := range all {
			found = append(found, strings.ReplaceAll(p.String(), dir+string(filepath.Separator), ""))
		}
	}
	cfg, err := c.loadImported(dir, stateDir)
	var problems config.Problems
	if errors.As(err, &problems) {
		say(problems)
		return found, nil
	} else if err != nil {
		return nil, err
	}
	problems, _ = server.Check(cfg)
	say(problems)
	return found, nil
}

func (c *cli) loadImported(dir, stateDir string) (*config.Config, error) {
	cfg, _, err := config.Load(filepath.Join(dir, original.ConfigFile), func(name string) (string, bool) {
		if stateDir != "" && name == "STATE_DIRECTORY" {
			return stateDir, true
		}
		value, ok := c.env[name]
		return value, ok
	})
	if err != nil {
		return nil, err
	}
	if problems := cfg.Check(); len(problems) > 0 {
		return nil, problems
	}
	return cfg, nil
}

// writeFiles returns what it has written, also when it fails. A file that is there as it would be is left as it is.
func writeFiles(dir string, files []original.File) (written []string, err error) {
	for _, f := range files {
		path := filepath.Join(dir, filepath.FromSlash(f.Name))
		if there, err := readSmall(path, int64(len(f.Content))); err == nil && bytes.Equal(there, f.Content) {
			continue // of an import before
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // what is secret in it has a mode of its own
			return written, err
		}
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.Mode) //nolint:gosec // the operator names the directory
		if errors.Is(err, fs.ErrExist) {
			return written, fmt.Errorf("%s is there already, and not as it would be: nothing is overwritten, so name another directory with --out, or move it away", path)
		} else if err != nil {
			return written, err
		}
		written = append(written, path)
		_, err = file.Write(f.Content)
		if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
			return written, err
		}
	}
	return written, nil
}

// writeImport writes files, rows and report; when it fails, the files are taken away again.
func (c *cli) writeImport(ctx context.Context, i importing, plan *original.Plan, result *importResult) (err error) {
	newDirs := missingDirs(i.out, plan.Files)
	written, err := writeFiles(i.out, plan.Files)
	defer func() {
		if err != nil {
			for _, path := range slices.Concat(written, newDirs) {
				_ = os.Remove(path)
			}
		}
	}()
	if err != nil {
		return err
	}
	cfg, err := c.loadImported(i.out, i.opts.StateDir)
	if err != nil {
		return err
	}
	bar := progress{c: c, on: !c.json && isTerminal(c.stderr)}
	imported, err := server.Import(ctx, cfg, plan, server.ImportOptions{Progress: func(done, total int) {
		if done%100 == 0 || done == total {
			bar.show(done, total)
		}
	}})
	bar.end()
	if ctx.Err() != nil {
		_ = c.say("posthorn: the files that this import wrote are taken away again; rows that it wrote stay. Run it again: it goes on from there")
	}
	if err != nil {
		return fmt.Errorf("%w. The files that this import wrote are taken away again; rows that it wrote stay. Run it again when that is mended: it goes on from there", err)
	}
	result.Written, result.Imported = true, &imported
	plan.Report.Written()
	raw, err := json.MarshalIndent(result, "", "  ")
	if err != nil {
		return err
	}
	text, machine := reportNames(i.out)
	result.reportFile = text
	reports, err := writeFiles(i.out, []original.File{
		{Name: text, Mode: 0o600, Content: []byte(plan.Report.Text() + importedText(imported))},
		{Name: machine, Mode: 0o600, Content: append(raw, '\n')},
	})
	if err != nil {
		_ = c.say("posthorn: the report was not written: %v", err)
	}
	if err := handOver(cfg.StateDir, append(written, reports...)); err != nil {
		_ = c.say("posthorn: not all files belong to the user that the server runs as: %v", err)
	}
	return nil
}

// missingDirs are the directories that writing files would make, the deepest first.
func missingDirs(dir string, files []original.File) (missing []string) {
	for _, f := range files {
		for at := filepath.Dir(filepath.Join(dir, filepath.FromSlash(f.Name))); !slices.Contains(missing, at); at = filepath.Dir(at) {
			if _, err := os.Lstat(at); !errors.Is(err, fs.ErrNotExist) {
				break
			}
			missing = append(missing, at)
		}
	}
	slices.SortFunc(missing, func(a, b string) int { return len(b) - len(a) })
	return missing
}

// reportNames are names of a report that are free: an import that goes on after another has one of its own.
func reportNames(dir string) (text, machine string) {
	text, machine = reportText, reportJSON
	for n := 2; ; n++ {
		_, noText := os.Lstat(filepath.Join(dir, text))
		_, noMachine := os.Lstat(filepath.Join(dir, machine))
		if noText != nil && noMachine != nil {
			return text, machine
		}
		text, machine = fmt.Sprintf("import-report-%d.txt", n), fmt.Sprintf("import-report-%d.json", n)
	}
}

// handOver gives what root has written to whom the state directory belongs, since the server runs as that user.
func handOver(stateDir string, files []string) error {
	dir, err := owner(stateDir)
	if err != nil || os.Geteuid() != 0 || dir.Uid == 0 {
		return err
	}
	entries, err := os.ReadDir(stateDir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		files = append(files, filepath.Join(stateDir, e.Name()))
	}
	for _, file := range files {
		if of, err := owner(file); err != nil || of.Uid != 0 {
			continue // gone, as a journal of SQLite's may be, or somebody's own
		}
		if err := os.Lchown(file, int(dir.Uid), int(dir.Gid)); err != nil {
			return err
		}
	}
	return nil
}

func owner(file string) (*unix.Stat_t, error) {
	var st unix.Stat_t
	if err := unix.Lstat(file, &st); err != nil {
		return nil, &fs.PathError{Op: "stat", Path: file, Err: err}
	}
	return &st, nil
}

// importedText says what was written into the database.
func importedText(i server.Imported) string {
	var b strings.Builder
	fmt.Fprintf(&b, "\nWritten into the database: contexts %d, users %d, mail hosts %d, properties %d, subscriptions %d; %d were there already.\n",
		i.Contexts, i.Users, i.MailHosts, i.Properties, i.Subscriptions, i.Had)
	for _, r := range i.Refused {
		b.WriteString("  ! " + r + "\n")
	}
	return b.String()
}

func (c *cli) printImport(i importing, r importResult) error {
	var b strings.Builder
	b.WriteString(r.Text())
	for _, p := range r.Problems {
		b.WriteString("posthorn.yml would not be good: " + p + "\n")
	}
	switch {
	case r.Written:
		b.WriteString(importedText(*r.Imported))
		fmt.Fprintf(&b, "The configuration is %s, this report %s beside it.\n", filepath.Join(i.out, original.ConfigFile), r.reportFile)
	case len(r.Problems) > 0:
		b.WriteString("\nNothing was written.\n")
	default:
		fmt.Fprintf(&b, "\nThis was a dry run: nothing was written. With --write, files go into %s.\n", i.out)
	}
	var out strings.Builder
	for line := range strings.Lines(b.String()) {
		out.WriteString(printable(strings.TrimSuffix(line, "\n")) + "\n")
	}
	_, err := io.WriteString(c.stdout, out.String())
	return err
}
