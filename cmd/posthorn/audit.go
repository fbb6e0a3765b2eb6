package main

import (
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
)

const auditPath = "/admin/v1/audit"

func (c *cli) auditCommand() *cobra.Command {
	var (
		user, act, since string
		contextNo        int64
		limit            int
	)
	cmd := &cobra.Command{
		Use:   "audit",
		Short: "List who signed in and who changed what, newest first",
		Long: "List the audit log: sign-ins, refused ones with the reason, devices that were signed out, and administrative\n" +
			"acts. The entries of all nodes are there, for as long as audit.keep says.",
		Example: "  posthorn audit\n  posthorn audit --user 3@1 --since 24h\n  posthorn audit --act sign_in --context 1 --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{}
			if user != "" {
				if err := checkUser(user, false); err != nil {
					return err
				}
				q.Set("user", user)
			}
			if cmd.Flags().Changed("context") {
				if contextNo < 1 {
					return usagef("--context %d: contexts are counted from 1", contextNo)
				}
				q.Set("context", strconv.FormatInt(contextNo, 10))
			}
			if act != "" {
				q.Set("act", act)
			}
			if since != "" {
				d, err := config.ParseDuration(since)
				if err != nil {
					return usagef("--since: %v", err)
				}
				q.Set("since", c.now().Add(-time.Duration(d)).UTC().Format(time.RFC3339))
			}
			if limit < 1 {
				return usagef("--limit %d: at least 1", limit)
			}
			items := []api.AuditEntry{}
			for more := true; more && len(items) < limit; {
				q.Set("limit", strconv.Itoa(min(limit-len(items), 1000)))
				var page api.AuditPage
				if err := c.ask(cmd.Context(), http.MethodGet, auditPath, q, nil, &page); err != nil {
					return err
				}
				items = append(items, page.Items...)
				q.Set("after", page.Next)
				more = page.Next != ""
			}
			return table[api.AuditEntry]{
				empty:  "The audit log has no such entries.",
				header: []string{"WHEN", "ACTOR", "ACT", "SUBJECT", "ADDRESS", "OUTCOME", "DETAIL"},
				row: func(e api.AuditEntry) []string {
					return []string{c.when(e.At), e.Actor, e.Act, e.Subject, e.Address, e.Outcome, e.Detail}
				},
			}.print(c, items)
		},
	}
	cmd.Flags().StringVar(&user, "user", "", "only entries about `USER`")
	cmd.Flags().Int64Var(&contextNo, "context", 0, "only entries of context `N`")
	cmd.Flags().StringVar(&act, "act", "", "only `ACT`, or with a dot at its end all that begin so")
	cmd.Flags().StringVar(&since, "since", "", "only of the last `DURATION`, such as 24h or 7d")
	cmd.Flags().IntVar(&limit, "limit", 100, "at most `N` entries")
	c.listFlag(cmd)
	return cmd
}
