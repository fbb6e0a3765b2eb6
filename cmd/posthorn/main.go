// Command posthorn is the server and the tool with which an operator runs it.
//
// The package is thin: it reads arguments, asks and prints. What a server does is in internal/server,
// and every other command reaches a running server over the admin socket in its state directory;
// none of them opens the database behind the server's back.
//
// Exit codes: 0 done, 1 something failed, 2 wrong usage, 3 no server is running. Errors go to stderr
// as "posthorn: …", results to stdout, so that both can be piped.
package main

import (
	"context"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
)

const rootHelp = `Posthorn tells phones of new mail: it puts push notifications in front of the mail servers
that a provider already runs.

  posthorn demo     see a mail arrive on a phone, with nothing else installed
  posthorn serve    run the server; without a configuration file it works as well

All other commands ask a running server, over a socket in its state directory.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	// The first signal asks for an orderly end; from then on the next one ends the process at once.
	context.AfterFunc(ctx, stop)
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr, os.Environ()))
}

// run is the whole program without the process around it: it returns the exit code. It returns when
// the command is done, or soon after ctx ends.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer, env []string) int {
	c := &cli{stdin: stdin, stdout: stdout, stderr: stderr, env: map[string]string{}, now: time.Now}
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		c.env[name] = value
	}
	root := c.root()                          //nolint:contextcheck // the commands take it from ExecuteContext
	root.SetArgs(append([]string{}, args...)) // nil would mean the process's own
	cmd, err := root.ExecuteContextC(ctx)
	return c.exit(ctx, cmd, err)
}

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{Use: "posthorn", Short: "push notifications for the mail servers you already run", Long: rootHelp}
	root.Version = versionLine()
	root.SetVersionTemplate("{{.Version}}\n")
	root.PersistentFlags().StringVar(&c.configFile, "config", "",
		"configuration `FILE` (default $POSTHORN_CONFIG, else "+defaultConfigFile+" if there is one)")
	root.PersistentFlags().StringVar(&c.stateDirFlag, "state-dir", "",
		"state directory `DIR`, where the admin socket is (default $POSTHORN_STATE_DIR, else the configuration's)")
	root.AddCommand(
		c.serveCommand(), c.reloadCommand(), c.demoCommand(), c.configCommand(),
		c.resellerCommand(), c.contextSetCommand(), c.contextCommand(), c.mailhostCommand(), c.userCommand(), c.propertyCommand(), c.providerCommand(), c.keyCommand(), c.hostCommand(), c.discoverCommand(),
		c.pushCommand(), c.pushusersCommand(), c.clusterCommand(), c.busCommand(), c.doctorCommand(), c.credentialsCommand(), c.auditCommand(), c.benchCommand(), c.versionCommand(),
	)
	root.AddCommand(c.completionCommand())
	root.SetIn(c.stdin)
	root.SetOut(c.stdout)
	root.SetErr(c.stderr)
	strictUsage(root)
	return root
}
