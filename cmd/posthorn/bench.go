package main

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/bench"
)

func (c *cli) benchCommand() *cobra.Command {
	group := &cobra.Command{Use: "bench", Short: "Measure Posthorn on this machine"}
	group.AddCommand(c.benchPushCommand(), c.benchListenersCommand(), c.benchPageCommand(), c.benchChildCommand())
	return group
}

func (c *cli) benchPushCommand() *cobra.Command {
	o := bench.Options{Suite: bench.Push}
	cmd := &cobra.Command{
		Use:   "push",
		Short: "Measure the road from a mail server's notification to the push provider",
		Long: `Run a fake provider, a load generator and the server as processes of their own on this machine, with
each figure's baseline in the same run. Figures go to stdout as "name value unit", what is being done
goes to stderr. It takes up to 20 minutes, needs Linux and a local disk below $TMPDIR, and reads no
configuration.

Outage, memory and crash are run once, everything else five times; the figure is the median.`,
		Example: "  posthorn bench push\n  posthorn bench push --only notify --json",
		Args:    operands(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.runBench(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Only, "only", "", "run one part: `NAME` is "+strings.Join(o.Suite.Parts(), ", "))
	f.BoolVar(&o.Quick, "quick", false, "shorten every part, to see that it works; the figures mean little")
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) benchListenersCommand() *cobra.Command {
	o := bench.Options{Suite: bench.Listeners}
	cmd := &cobra.Command{
		Use:   "listeners",
		Short: "Measure the listeners: what they cost, and what a cluster makes of a failure",
		Long: `Hold 15,000 IDLE connections to a fake mail server, have it restart, and run clusters of three and four
servers on a real PostgreSQL with the users of a real Dovecot, one of which is killed. Figures go to
stdout as "name value unit", what is being done goes to stderr. It takes some 8 minutes, needs Linux,
20,000 open files for each process, and PostgreSQL and Dovecot 2.3 as Debian's packages postgresql,
dovecot-imapd and dovecot-lmtpd have them; it starts its own instances and leaves others alone.`,
		Example: "  posthorn bench listeners\n  posthorn bench listeners --only failover --json",
		Args:    operands(),
		RunE:    func(cmd *cobra.Command, _ []string) error { return c.runBench(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.Only, "only", "", "run one part: `NAME` is "+strings.Join(o.Suite.Parts(), ", "))
	f.BoolVar(&o.Quick, "quick", false, "shorten every part, to see that it works; the figures mean little")
	c.jsonFlag(cmd)
	return cmd
}

// runBench runs a suite.
func (c *cli) runBench(ctx context.Context, o bench.Options) error {
	if o.Only != "" && !slices.Contains(o.Suite.Parts(), o.Only) {
		return usagef("--only %s: there is no such part", o.Only)
	}
	o.Out, o.Progress, o.JSON = c.stdout, c.stderr, c.json
	return bench.Run(ctx, o)
}

func (c *cli) benchPageCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "page DIR FILE...",
		Short: "Write the results page from the reports of runs",
		Long: `Write the results page, DIR/bench.md with the plots DIR/img/bench-*.svg, from files that hold what
"posthorn bench push --json" and "posthorn bench listeners --json" printed.`,
		Example: "  posthorn bench push --json > bench.json\n  posthorn bench listeners --json > listeners.json\n  posthorn bench page docs bench.json listeners.json",
		Args:    cobra.MinimumNArgs(2),
		RunE:    func(_ *cobra.Command, args []string) error { return bench.WritePage(args[0], args[1:]) },
	}
}

// benchChildCommand is what a run starts for itself.
func (c *cli) benchChildCommand() *cobra.Command {
	return &cobra.Command{
		Use:    "child KIND CONFIG",
		Short:  "One process of a run",
		Hidden: true,
		Args:   cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return bench.Child(cmd.Context(), args[0], args[1], c.stdout)
		},
	}
}
