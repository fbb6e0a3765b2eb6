package api

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strconv"

	"github.com/posthorn-mail/posthorn/internal/problem"
	"github.com/posthorn-mail/posthorn/internal/tenant"
)

const (
	// importBatch is how many users go into one transaction, for which every other write waits.
	importBatch = 500
	// maxImport bounds an import's body, in bytes.
	maxImport = 256 << 20
	// maxImportErrors bounds the lines that a report tells of one by one.
	maxImportErrors = 1000
)

// The media types of an import.
const (
	mediaCSV   = "text/csv"
	mediaLines = "application/x-ndjson"
)

// ImportReport is what became of the lines of an import.
type ImportReport struct {
	DryRun bool `json:"dry_run,omitempty" doc:"nothing was kept: this is what would be done"`
	// Lines are those that stand for a user.
	Lines         int           `json:"lines"`
	Added         int           `json:"added"`
	Unchanged     int           `json:"unchanged" doc:"users who were there already, as the line says"`
	Failed        int           `json:"failed"`
	ContextsAdded []string      `json:"contexts_added,omitempty" doc:"the names of contexts that were made"`
	Errors        []ImportError `json:"errors,omitempty" doc:"the first thousand lines that failed"`
}

// ImportError is a line that was not done.
type ImportError struct {
	Line   int    `json:"line"`
	Field  string `json:"field,omitempty"`
	Detail string `json:"detail"`
}

// importer is one import under way.
type importer struct {
	a      *API
	r      *http.Request
	report ImportReport
	// byName and byID are the contexts that the actor may use.
	byName map[string]int64
	byID   map[int64]bool
	create bool
	hosts  map[string][]int64 // what each mail host is limited to
	dry    *tenant.Rehearsal  // nil for a real one
	batch  []tenant.User
	lines  []int
}

// importUsers is POST /users/import: it reads lines as they come, does those that are good, and answers with a report.
func (a *API) importUsers(r *http.Request) (int, any, error) {
	q := r.URL.Query()
	im := &importer{a: a, r: r, byName: map[string]int64{}, byID: map[int64]bool{}, hosts: map[string][]int64{}}
	var err error
	if im.report.DryRun, err = yes(q.Get("dry_run"), "dry_run"); err != nil {
		return 0, nil, err
	}
	if im.report.DryRun {
		im.dry = &tenant.Rehearsal{}
	}
	if im.create, err = yes(q.Get("create_contexts"), "create_contexts"); err != nil {
		return 0, nil, err
	}
	if err := im.look(); err != nil {
		return 0, nil, err
	}
	media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type"))
	body := http.MaxBytesReader(nil, r.Body, maxImport)
	lines, err := newUserLines(bufio.NewReaderSize(body, maxImportLine), cmp.Or(media, mediaCSV))
	if err != nil {
		return 0, nil, importProblem(err)
	}
	for {
		u, number, err := lines.next()
		if errors.Is(err, io.EOF) {
			break
		}
		if bad, ok := errors.AsType[*tenant.InvalidError](err); ok {
			im.report.Lines++
			im.fail(number, bad)
			continue
		} else if err != nil {
			return 0, nil, importProblem(err)
		}
		if err := im.add(u, number); err != nil {
			return 0, nil, err
		}
	}
	if err := im.flush(); err != nil {
		return 0, nil, err
	}
	slices.SortStableFunc(im.report.Errors, func(a, b ImportError) int { return cmp.Compare(a.Line, b.Line) })
	note(r, fmt.Sprintf("%d added, %d unchanged, %d failed", im.report.Added, im.report.Unchanged, im.report.Failed))
	return http.StatusOK, im.report, nil
}

// yes reads a parameter that is yes or no.
func yes(s, name string) (bool, error) {
	switch s {
	case "", "0", "false":
		return false, nil
	case "1", "true":
		return true, nil
	}
	return false, problem.InField(name, "must be 1 or 0")
}

// importProblem is what ends an import before its end. What stood before is done, and is passed over the next time.
func importProblem(err error) error {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return problem.New(http.StatusRequestEntityTooLarge, "too_large", "an import has at most 256 MiB: send it in parts")
	}
	if bad, ok := errors.AsType[*tenant.InvalidError](err); ok {
		return bad
	}
	return problem.New(http.StatusBadRequest, "unreadable_body", "the request's body ended early: what came before is done, send it again")
}

// look finds what the lines may name.
func (im *importer) look() error {
	ctx := im.r.Context()
	seen, err := im.a.reach(im.r)
	if err != nil {
		return err
	}
	contexts, err := im.a.Tenants.Contexts(ctx)
	if err != nil {
		return err
	}
	for _, c := range contexts {
		if seen.has(c.ID) {
			im.byName[c.Name], im.byID[c.ID] = c.ID, true
		}
	}
	hosts, err := im.a.Tenants.MailHosts(ctx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		im.hosts[h.Name] = nil
		if actorOf(im.r).Role != RoleOperator {
			im.hosts[h.Name] = h.Contexts
		}
	}
	return nil
}

func (im *importer) fail(line int, bad *tenant.InvalidError) {
	im.report.Failed++
	if len(im.report.Errors) < maxImportErrors {
		im.report.Errors = append(im.report.Errors, ImportError{line, bad.Field, bad.Problem})
	}
}

// add takes one line's user into the batch.
func (im *importer) add(line userLine, number int) error {
	im.report.Lines++
	u := tenant.User{Login: line.login, MailHost: line.mailhost, ID: tenant.UserID{ID: line.id}}
	var err error
	if u.ID.Context, err = im.context(line); err == nil {
		err = im.hostFor(u)
	}
	if bad, ok := errors.AsType[*tenant.InvalidError](err); ok {
		im.fail(number, bad)
		return nil
	} else if err != nil {
		return err
	}
	im.batch, im.lines = append(im.batch, u), append(im.lines, number)
	if len(im.batch) == importBatch {
		return im.flush()
	}
	return nil
}

// hostFor refuses a user's mail host in the words of mayAdd.
func (im *importer) hostFor(u tenant.User) error {
	limit, ok := im.hosts[u.MailHost]
	switch {
	case ok && (len(limit) == 0 || slices.Contains(limit, u.ID.Context)):
		return nil
	case actorOf(im.r).Role == RoleOperator:
		return tenant.NoMailHost("mailhost", u.MailHost, slices.Sorted(maps.Keys(im.hosts)))
	}
	return &tenant.InvalidError{Field: "mailhost", Problem: fmt.Sprintf("there is no mail host %q for this context: ask the operator", u.MailHost)}
}

// context finds a line's context, or makes it; less than 0 is one that a dry run would make.
func (im *importer) context(line userLine) (int64, error) {
	if line.context != 0 {
		if !im.byID[line.context] {
			return 0, &tenant.InvalidError{Field: "context", Problem: fmt.Sprintf("there is no context %d: add it first", line.context)}
		}
		return line.context, nil
	}
	id, ok := im.byName[line.contextName]
	switch {
	case ok:
		return id, nil
	case !im.create:
		return 0, &tenant.InvalidError{
			Field: "context", Problem: fmt.Sprintf("there is no context %q: add it first, or have contexts made (create_contexts)", line.contextName),
		}
	}
	c := tenant.Context{Name: line.contextName}
	id = -int64(len(im.report.ContextsAdded)) - 1
	if actor := actorOf(im.r); actor.Role == RoleReseller {
		c.Reseller = actor.Subject
	}
	if !im.report.DryRun {
		made, err := im.a.Tenants.AddContext(im.r.Context(), c)
		if errors.Is(err, tenant.ErrExists) { // another reseller's
			return 0, &tenant.InvalidError{Field: "context", Problem: fmt.Sprintf("the name %q is taken: choose another", c.Name)}
		} else if err != nil {
			return 0, err
		}
		id = made.ID
		im.byID[id] = true
	}
	im.byName[c.Name] = id
	im.report.ContextsAdded = append(im.report.ContextsAdded, c.Name)
	return id, nil
}

// flush does what is gathered.
func (im *importer) flush() error {
	if len(im.batch) == 0 {
		return nil
	}
	goOn(im.r)
	done, err := im.a.Tenants.ImportUsers(im.r.Context(), im.batch, im.dry)
	if err != nil {
		return fmt.Errorf("import users: %w", err)
	}
	for i, one := range done {
		switch {
		case one.Err != nil:
			bad, ok := errors.AsType[*tenant.InvalidError](one.Err)
			if !ok {
				bad = &tenant.InvalidError{Field: "login", Problem: one.Err.Error() + ": correct the line, or remove that user first"}
			}
			im.fail(im.lines[i], bad)
		case one.Added:
			im.report.Added++
		default:
			im.report.Unchanged++
		}
	}
	im.batch, im.lines = im.batch[:0], im.lines[:0]
	return nil
}

// slowWriter is, in the context of a slow operation's request, what its deadlines are set by.
type slowWriter struct{}

// goOn gives a slow request as long again as others have from the start.
func goOn(r *http.Request) {
	if w, ok := r.Context().Value(slowWriter{}).(http.ResponseWriter); ok {
		extend(w)
	}
}

// withWriter lets slow operations extend their time.
func withWriter(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), slowWriter{}, w)))
	})
}

// parseNumber reads an id without sign or leading zero.
func parseNumber(s string) (int64, bool) {
	n, err := strconv.ParseInt(s, 10, 64)
	return n, err == nil && n > 0 && strconv.FormatInt(n, 10) == s
}
