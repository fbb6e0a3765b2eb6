package main

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

// pushusersCommand is the original's tool of that name, to the letter: scripts read its lines.
func (c *cli) pushusersCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "pushusers",
		Short: "List users with a running listener, as the original's tool prints them",
		Long: "List the users whose listener is registered at their mail host, one line each, sorted by context and\n" +
			"user. \"posthorn push users\" shows the others as well, and why.",
		Example: "  $ posthorn pushusers\n  user=249, context=1, permanent=true",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, err := fetch[api.PushUser](cmd.Context(), c, pushUsersPath, nil)
			if err != nil {
				return err
			}
			running := []api.PushUser{}
			for _, u := range all {
				if u.State == "registered" {
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
		},
	}
	c.listFlag(cmd)
	return cmd
}

// splitUser takes "249@1" apart. The server sends nothing else, so what is no number counts as 0.
func splitUser(s string) (user, context int64) {
	u, x, _ := strings.Cut(s, "@")
	user, _ = strconv.ParseInt(u, 10, 64)
	context, _ = strconv.ParseInt(x, 10, 64)
	return user, context
}
