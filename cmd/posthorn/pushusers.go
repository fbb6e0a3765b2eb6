package main

import (
	"cmp"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const registrationsPath = "/admin/v1/push/registrations"

// pushusersCommand is the original's tool of that name, to the letter: scripts call it and read its lines.
func (c *cli) pushusersCommand() *cobra.Command {
	var list, remove bool
	var of registration
	cmd := &cobra.Command{
		Use:   "pushusers [-l | -r -c CONTEXT -u USER -i CLIENT]",
		Short: "List users with a running listener, as the original's tool prints them",
		Long: "List the users whose new mail is told of, on all nodes of the cluster, one line each, sorted by context and\n" +
			"user. \"posthorn push users\" shows the others as well, and why. With -l, list which clients have subscribed;\n" +
			"with -r, remove the subscriptions of one, on all devices of that user.\n\n" +
			"The flags of the original that said how to reach it (-A, -P, -s, -p, --responsetimeout) are taken and ignored.",
		Example: "  $ posthorn pushusers\n  user=249, context=1, permanent=true\n" +
			"  $ posthorn pushusers -r -c 1 -u 249 -i open-xchange-mailapp\n" +
			"  Push registration successfully deleted for user 249 in context 1 for client 'open-xchange-mailapp'",
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := of.check(cmd.Flags(), list, remove); err != nil {
				return err
			}
			if err := c.tellIgnored(cmd.Flags()); err != nil {
				return err
			}
			switch {
			case list:
				return c.listRegistrations(cmd)
			case remove:
				return c.removeRegistration(cmd, of)
			}
			return c.listRunning(cmd)
		},
	}
	f := cmd.Flags()
	f.BoolVarP(&list, "list-client-registrations", "l", false, "list which clients of which users have subscribed")
	f.BoolVarP(&remove, "unregister", "r", false, "remove the subscriptions of one client of one user")
	f.Int64VarP(&of.Context, "context", "c", 0, "with -r: `CONTEXT` of the user")
	f.Int64VarP(&of.User, "user", "u", 0, "with -r: number of the `USER`")
	f.StringVarP(&of.Client, "client", "i", "", "with -r: `CLIENT`, as -l shows it")
	for _, old := range ignoredFlags {
		f.StringP(old.name, old.short, "", "ignored")
		f.Lookup(old.name).Hidden = true
	}
	c.listFlag(cmd)
	return cmd
}

// ignoredFlags are those of the original that make no sense here, and that scripts pass.
var ignoredFlags = []struct{ name, short string }{
	{"adminuser", "A"}, {"adminpass", "P"}, {"server", "s"}, {"port", "p"}, {"responsetimeout", ""},
}

// tellIgnored says once which flags had no effect.
func (c *cli) tellIgnored(f *pflag.FlagSet) error {
	var given []string
	for _, old := range ignoredFlags {
		switch {
		case !f.Changed(old.name):
		case old.short != "":
			given = append(given, "-"+old.short)
		default:
			given = append(given, "--"+old.name)
		}
	}
	if len(given) == 0 {
		return nil
	}
	return c.say("posthorn: %s: ignored, the running server is asked over its own socket and tells of the whole cluster", strings.Join(given, " "))
}

// registration is what -r removes.
type registration api.PushRegistration

// check holds the flags to what belongs together.
func (of registration) check(f *pflag.FlagSet, list, remove bool) error {
	switch {
	case list && remove:
		return usagef("-l and -r: say one of them")
	case !remove && (f.Changed("context") || f.Changed("user") || f.Changed("client")):
		return usagef("-c, -u and -i say which registration -r removes: -r is missing")
	case remove && of.Context < 1:
		return usagef("-r needs -c, the number of the context")
	case remove && of.User < 1:
		return usagef("-r needs -u, the number of the user")
	case remove && of.Client == "":
		return usagef("-r needs -i, the client as -l shows it")
	}
	return nil
}

func (c *cli) listRunning(cmd *cobra.Command) error {
	all, err := fetch[api.PushUser](cmd.Context(), c, pushUsersPath, nil)
	if err != nil {
		return err
	}
	running := []api.PushUser{}
	for _, u := range all {
		if u.State == "registered" || u.State == "listening" {
			running = append(running, u)
		}
	}
	slices.SortFunc(running, func(a, b api.PushUser) int {
		userA, contextA := splitUser(a.User)
		userB, contextB := splitUser(b.User)
		return cmp.Or(cmp.Compare(contextA, contextB), cmp.Compare(userA, userB))
	})
	if c.json {
		return c.printJSON(running)
	}
	if len(running) == 0 {
		_, err := fmt.Fprintln(c.stdout, "No running push users on this node.")
		return err
	}
	for _, u := range running {
		user, context := splitUser(u.User)
		if _, err := fmt.Fprintf(c.stdout, "user=%d, context=%d, permanent=%t\n", user, context, u.Permanent); err != nil {
			return err
		}
	}
	return nil
}

func (c *cli) listRegistrations(cmd *cobra.Command) error {
	all, err := fetch[api.PushRegistration](cmd.Context(), c, registrationsPath, nil)
	switch {
	case err != nil:
		return err
	case c.json:
		return c.printJSON(all)
	case len(all) == 0:
		_, err := fmt.Fprintln(c.stdout, "No registered push users.")
		return err
	}
	w := tabwriter.NewWriter(c.stdout, 0, 0, 1, ' ', 0)
	_, _ = fmt.Fprintln(w, "Context\tUser\tClient") // errors come back from Flush
	for _, r := range all {
		_, _ = fmt.Fprintf(w, "%d\t%d\t%s\n", r.Context, r.User, printable(r.Client))
	}
	return w.Flush()
}

// removeRegistration says what the original's tool said. Unlike that, it fails when there was nothing to remove.
func (c *cli) removeRegistration(cmd *cobra.Command, of registration) error {
	q := url.Values{
		"context": {strconv.FormatInt(of.Context, 10)}, "user": {strconv.FormatInt(of.User, 10)}, "client": {of.Client},
	}
	var done api.Unregistered
	if err := c.ask(cmd.Context(), http.MethodDelete, registrationsPath, q, nil, &done); err != nil {
		return err
	}
	which := fmt.Sprintf("for user %d in context %d for client '%s'", of.User, of.Context, printable(of.Client))
	if done.Subscriptions == 0 {
		if err := c.done(done, "No such push registration %s", which); err != nil {
			return err
		}
		return errReported
	}
	return c.done(done, "Push registration successfully deleted %s", which)
}

// yes is a cell that answers a question.
func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// splitUser takes "249@1" apart. The server sends nothing else, so what is no number counts as 0.
func splitUser(s string) (user, context int64) {
	u, x, _ := strings.Cut(s, "@")
	user, _ = strconv.ParseInt(u, 10, 64)
	context, _ = strconv.ParseInt(x, 10, 64)
	return user, context
}
