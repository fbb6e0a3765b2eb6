// Package bench measures Posthorn: fake provider, load generator and sender as separate processes on
// loopback, with each figure's baseline in the same run.
//
// The processes are this very binary again: "posthorn serve" is the sender, and hidden subcommands are
// the rest (child.go). CPU is what the kernel charged the process (/proc/PID/stat), memory its own
// high-water mark (VmHWM), so it runs on Linux only. It judges nothing: limits are the reader's.
//
// Concurrency: Run is called once; it ends every process that it started.
package bench

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options say what to run and where to report. Out and Progress are needed.
type Options struct {
	// Suite is what to measure: Push or Listeners.
	Suite Suite
	// Only is the part to run: the word before the dot of a line's name. Empty runs all.
	Only string
	// Quick shortens every part, to see that it works. Its figures mean little.
	Quick bool
	// JSON prints one document at the end instead of a line for each figure.
	JSON bool
	// Out takes the figures, Progress what is being done.
	Out, Progress io.Writer
}

// Line is one figure.
type Line struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Runs are the figures of the single repetitions, of which Value is the median.
	Runs []float64 `json:"runs,omitempty"`

	quick bool // of a quick run, on the page
}

// Report is the outcome of a run.
type Report struct {
	Started time.Time         `json:"started"`
	Seconds float64           `json:"seconds"`
	Quick   bool              `json:"quick"`
	Machine map[string]string `json:"machine"`
	Lines   []Line            `json:"lines"`
}

// Suite is a set of parts that are run together.
type Suite string

// The suites.
const (
	Push      Suite = "push"      // from a mail server's notification to the push provider
	Listeners Suite = "listeners" // from the mailbox to the notification, on one node and on several
)

// part makes lines that "--only" names by the word before their dot. Several families are one part when
// they are measured on the same processes, one after the other.
type part struct {
	names []string
	run   func(*runner, context.Context) error
}

func (s Suite) parts() []part {
	if s == Listeners {
		return []part{
			{[]string{"idle", "reconnect"}, (*runner).hold},
			{[]string{"spread", "join", "failover"}, (*runner).cluster},
			{[]string{"reconcile"}, (*runner).reconcile},
		}
	}
	return []part{
		{[]string{"notify", "push"}, (*runner).notify}, // one backlog gives both figures
		{[]string{"latency"}, (*runner).latency},
		{[]string{"isolation"}, (*runner).isolation},
		{[]string{"apns"}, (*runner).apns},
		{[]string{"webpush"}, (*runner).webpush},
		{[]string{"memory"}, (*runner).memory},
		{[]string{"crash"}, (*runner).crash},
		{[]string{"outage"}, (*runner).outage},
	}
}

// Parts are the names that Options.Only may have.
func (s Suite) Parts() []string {
	var names []string
	for _, p := range s.parts() {
		names = append(names, p.names...)
	}
	slices.Sort(names)
	return names
}

// runner is one run.
type runner struct {
	Options
	exe    string
	dir    string
	clean  []string // more directories of the run, with short names
	port   int      // the last that freePorts looked at
	report Report
}

// wants says whether lines of this family were asked for.
func (r *runner) wants(families ...string) bool {
	return r.Only == "" || slices.Contains(families, r.Only)
}

// repeats is how often a part is measured that is not run once.
func (r *runner) repeats() int {
	if r.Quick {
		return 1
	}
	return 5
}

// pick is full, or quick in a quick run.
func pick[T any](r *runner, full, quick T) T {
	if r.Quick {
		return quick
	}
	return full
}

// Run measures and reports. An error of one part ends the run; what was measured before is reported.
func Run(ctx context.Context, o Options) (err error) {
	todo := o.Suite.parts()
	if o.Only != "" {
		todo = slices.DeleteFunc(todo, func(p part) bool { return !slices.Contains(p.names, o.Only) })
	}
	if len(todo) == 0 {
		return fmt.Errorf("no part %q: there are %s", o.Only, strings.Join(o.Suite.Parts(), ", "))
	}
	r := &runner{Options: o}
	if r.exe, err = os.Executable(); err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if r.dir, err = os.MkdirTemp("", "posthorn-bench-"); err != nil {
		return fmt.Errorf("make a working directory: %w", err)
	}
	defer func() {
		for _, dir := range append(r.clean, r.dir) {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	start := time.Now()
	r.report = Report{Started: start.UTC(), Quick: o.Quick, Machine: machine()}
	for _, p := range todo {
		name := strings.Join(p.names, ", ")
		r.say("%s …", name)
		begin := time.Now()
		if err = p.run(r, ctx); err != nil {
			err = fmt.Errorf("%s: %w", name, err)
			break
		}
		r.say("%s done in %.0f s", name, time.Since(begin).Seconds())
	}
	r.report.Seconds = time.Since(start).Seconds()
	if o.JSON {
		e := json.NewEncoder(o.Out)
		e.SetIndent("", "  ")
		err = errors.Join(err, e.Encode(r.report))
	}
	return err
}

func (r *runner) say(format string, args ...any) {
	_, _ = fmt.Fprintf(r.Progress, "bench: "+format+"\n", args...)
}

// put reports a figure; of several it is the median.
func (r *runner) put(name, unit string, runs ...float64) {
	l := Line{Name: name, Unit: unit, Value: median(runs)}
	if len(runs) > 1 {
		l.Runs = runs
	}
	r.report.Lines = append(r.report.Lines, l)
	if !r.JSON {
		_, _ = fmt.Fprintln(r.Out, l.Name, number(l.Value), l.Unit)
	}
}

// number prints a figure with three significant digits below 1000, whole above.
func number(v float64) string {
	switch {
	case v == float64(int64(v)), v >= 1000 || v <= -1000:
		return strconv.FormatFloat(v, 'f', 0, 64)
	case v >= 100 || v <= -100:
		return strconv.FormatFloat(v, 'f', 1, 64)
	}
	return strconv.FormatFloat(v, 'f', 2, 64)
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	s := slices.Sorted(slices.Values(v))
	if n := len(s); n%2 == 0 {
		return (s[n/2-1] + s[n/2]) / 2
	}
	return s[len(s)/2]
}

// percentile of sorted values, p from 0 to 1; the smallest value that p of them do not exceed.
func percentile(sorted []float64, p float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	i := int(float64(len(sorted))*p+0.9999999) - 1
	return sorted[min(max(i, 0), len(sorted)-1)]
}

// pause waits; it is false when ctx ended before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// until polls what only another process can tell.
func until(ctx context.Context, limit time.Duration, what string, ok func() (bool, error)) error {
	return seldom(ctx, limit, 20*time.Millisecond, what, ok)
}

// seldom is until for what takes the other process some CPU.
func seldom(ctx context.Context, limit, every time.Duration, what string, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		done, err := ok()
		if err != nil || done {
			return err
		}
		if !pause(ctx, every) {
			return fmt.Errorf("waited %s in vain: %s", limit, what)
		}
	}
}
