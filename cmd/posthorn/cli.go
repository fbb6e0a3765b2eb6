package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const (
	exitError    = 1
	exitUsage    = 2
	exitNoServer = 3
)

// askTimeout bounds one question to the running server. The slowest asks several providers for a
// test notification, each of which may take 10 s.
const askTimeout = time.Minute

// errReported is an error whose whole text has been written already.
var errReported = errors.New("reported")

// cli is one run of the program: what it was given, and the flags that several commands share.
type cli struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	env            map[string]string
	now            func() time.Time

	configFile   string
	stateDirFlag string
	json         bool

	warned bool // the warnings of the configuration have been shown
}

// exit says what went wrong and returns the exit code for it.
func (c *cli) exit(ctx context.Context, cmd *cobra.Command, err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errReported):
		return exitError
	case errors.As(err, &usage):
		c.complain(usage.msg)
		_ = c.say("Usage: %s\nRun \"%s --help\" to see what it takes, with examples.", useLine(cmd), cmd.CommandPath())
		return exitUsage
	case errors.Is(err, api.ErrNoServer):
		c.complain(err.Error() + `: start it ("systemctl start posthorn" where the package is installed, else "posthorn serve"), or name the state directory of a running one with --state-dir`)
		return exitNoServer
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		c.complain("interrupted")
		return exitError
	}
	c.complain(err.Error())
	return exitError
}

// complain writes an error; one that holds several lines says in each that it is one.
func (c *cli) complain(msg string) {
	for line := range strings.Lines(msg) {
		_ = c.say("posthorn: %s", printable(strings.TrimRight(line, "\n")))
	}
}

func useLine(cmd *cobra.Command) string {
	if cmd.HasSubCommands() {
		return cmd.CommandPath() + " [command]"
	}
	return cmd.UseLine()
}

func (c *cli) jsonFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print JSON")
}

// listFlag is jsonFlag for a listing.
func (c *cli) listFlag(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&c.json, "json", false, "print one JSON array")
}

// ask sends one request to the running server.
func (c *cli) ask(ctx context.Context, method, path string, query url.Values, in, out any) error {
	dir, err := c.stateDir()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	err = api.NewAdminClient(dir).Do(ctx, method, path, query, in, out)
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("the server did not answer within %s", askTimeout)
	}
	return err
}

// fetch asks for a listing.
func fetch[T any](ctx context.Context, c *cli, path string, query url.Values) ([]T, error) {
	var list api.List[T]
	err := c.ask(ctx, "GET", path, query, nil, &list)
	return list.Items, err
}

// readSecret reads a password from a file, or from stdin for "-". One final line break is not part
// of it.
func (c *cli) readSecret(file string) (string, error) {
	in := c.stdin
	if file != "-" {
		f, err := os.Open(file) //nolint:gosec // the operator names the file
		if err != nil {
			return "", fmt.Errorf("open the password file: %w", err)
		}
		defer f.Close() //nolint:errcheck // only read from
		in = f
	}
	const limit = 4 << 10 // bytes
	b, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err != nil {
		return "", fmt.Errorf("read the password: %w", err)
	}
	secret := strings.TrimSuffix(strings.TrimSuffix(string(b), "\n"), "\r")
	switch {
	case len(b) > limit:
		return "", fmt.Errorf("%s holds more than %d bytes: not a password", file, limit)
	case secret == "":
		return "", fmt.Errorf("%s is empty: no password in it", file)
	case strings.ContainsFunc(secret, isControl):
		return "", fmt.Errorf("%s holds more than one line or control characters: not a password", file)
	}
	return secret, nil
}
