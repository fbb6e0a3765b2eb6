package bench

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is one that we started.
type process struct {
	cmd *exec.Cmd
	out *bufio.Reader
	log *os.File
}

// start runs this program with args. Its stderr goes to a file that is shown when it fails.
func (r *runner) start(ctx context.Context, args ...string) (*process, error) {
	log, err := os.CreateTemp(r.dir, "log-*")
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", args[0], err)
	}
	p := &process{cmd: exec.CommandContext(ctx, r.exe, args...), log: log} //nolint:gosec // ourselves
	p.cmd.Stderr = log
	out, err := p.cmd.StdoutPipe()
	if err == nil {
		p.out = bufio.NewReader(out)
		err = p.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", args[0], err), log.Close())
	}
	return p, nil
}

// child starts a helper (child.go) and reads its first line into ready, unless that is nil.
func (r *runner) child(ctx context.Context, kind string, cfg, ready any) (*process, error) {
	raw, err := json.Marshal(cfg)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", kind, err)
	}
	p, err := r.start(ctx, "bench", "child", kind, string(raw))
	if err != nil || ready == nil {
		return p, err
	}
	if err := p.read(ready); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", kind, err), p.kill())
	}
	return p, nil
}

// run starts a helper, waits for its end and reads its result.
func (r *runner) run(ctx context.Context, kind string, cfg, result any) error {
	p, err := r.child(ctx, kind, cfg, result)
	if err != nil {
		return err
	}
	return p.wait()
}

// read decodes the next line that the process prints.
func (p *process) read(v any) error {
	line, err := p.out.ReadBytes('\n')
	if err != nil {
		said, _ := os.ReadFile(p.log.Name())
		return fmt.Errorf("%w; it said: %s", err, tail(string(said)))
	}
	return json.Unmarshal(line, v)
}

func tail(s string) string { return s[max(0, len(s)-2000):] }

// wait waits for the end that the process comes to by itself.
func (p *process) wait() error {
	_, _ = io.Copy(io.Discard, p.out)
	err := p.cmd.Wait()
	if err != nil {
		said, _ := os.ReadFile(p.log.Name())
		err = fmt.Errorf("%w; it said: %s", err, tail(string(said)))
	}
	return errors.Join(err, p.log.Close())
}

// kill ends the process without a word.
func (p *process) kill() error {
	_ = p.cmd.Process.Kill()
	_, _ = io.Copy(io.Discard, p.out)
	_ = p.cmd.Wait() // says that it was killed
	return p.log.Close()
}

// clockTicks is USER_HZ, which is 100 on every Linux that Go runs on (proc(5)).
const clockTicks = 100

// cpu is what the kernel charged the process so far, user and system time.
func (p *process) cpu() (time.Duration, error) { return cpuOf(p.cmd.Process.Pid) }

func cpuOf(pid int) (time.Duration, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	// The name in parentheses may hold anything; utime and stime are fields 14 and 15, counted from 1.
	_, rest, _ := strings.Cut(string(raw[strings.LastIndexByte(string(raw), ')'):]), " ")
	f := strings.Fields(rest)
	if len(f) < 13 {
		return 0, errors.New("read CPU time: /proc/PID/stat is too short")
	}
	user, err1 := strconv.ParseInt(f[11], 10, 64)
	system, err2 := strconv.ParseInt(f[12], 10, 64)
	return time.Duration(user+system) * time.Second / clockTicks, errors.Join(err1, err2)
}

// selfCPU is cpu of this process, to the microsecond.
func selfCPU() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0 // cannot be: the arguments are ours
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// peakMB is the high-water mark of resident memory in MB of 1024 * 1024 bytes.
func (p *process) peakMB() (float64, error) {
	raw, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid), "status"))
	if err != nil {
		return 0, fmt.Errorf("read memory: %w", err)
	}
	kb, err := strconv.ParseFloat(procField(string(raw), "VmHWM:"), 64)
	return kb / 1024, err
}

// procField is the first word after a name in a file of /proc.
func procField(text, name string) string {
	for line := range strings.Lines(text) {
		if rest, ok := strings.CutPrefix(line, name); ok {
			if f := strings.Fields(rest); len(f) > 0 {
				return f[0]
			}
		}
	}
	return ""
}

// machine says on what the figures were made, so that they can be compared.
func machine() map[string]string {
	m := map[string]string{
		"cores": strconv.Itoa(runtime.NumCPU()), "go": runtime.Version(), "system": runtime.GOOS + "/" + runtime.GOARCH,
	}
	if raw, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(raw)) {
			if rest, ok := strings.CutPrefix(line, "model name"); ok {
				m["cpu"] = strings.Trim(rest, " \t:\n")
				break
			}
		}
	}
	if raw, err := os.ReadFile("/proc/loadavg"); err == nil {
		f := strings.Fields(string(raw))
		m["load_before"] = f[0]
	}
	if raw, err := os.ReadFile("/proc/meminfo"); err == nil {
		if kb, err := strconv.Atoi(procField(string(raw), "MemTotal:")); err == nil {
			m["memory"] = strconv.Itoa(kb>>20) + " GiB"
		}
	}
	return m
}

// idleTime is what all cores of the machine idled so far, and cores how many there are.
func idleTime() time.Duration {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0
	}
	line, _, _ := strings.Cut(string(raw), "\n") // cpu user nice system idle iowait …
	f := strings.Fields(line)
	if len(f) < 6 {
		return 0
	}
	idle, _ := strconv.ParseInt(f[4], 10, 64)
	wait, _ := strconv.ParseInt(f[5], 10, 64)
	return time.Duration(idle+wait) * time.Second / clockTicks
}

func cores() float64 { return float64(runtime.NumCPU()) }
