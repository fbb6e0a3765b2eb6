package main

import (
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
	"github.com/posthorn-mail/posthorn/internal/config"
)

const keysPath = "/admin/v1/keys"

func (c *cli) keyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "key", Short: "Make, list and remove keys of the administration over HTTP"}
	cmd.AddCommand(c.keyAdd(), c.keyList(), c.keyRemove())
	return cmd
}

func (c *cli) keyAdd() *cobra.Command {
	var (
		in            api.Key
		role, expires string
	)
	cmd := &cobra.Command{
		Use:   "add --role ROLE",
		Short: "Make a key, which is shown this once",
		Long: "Make a key for /api/v1/admin. ROLE is operator, who may do everything, reseller, who acts for his own contexts,\n" +
			"or brand, who acts for one provider.",
		Example: "  posthorn key add --role operator --note \"our portal\"\n" +
			"  posthorn key add --role reseller --reseller north --expires 90d\n" +
			"  posthorn key add --role brand --provider blue --json",
		Args: operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if in.Role = api.Role(role); role == "" {
				return usagef("--role is missing: operator, reseller or brand")
			}
			d, err := config.ParseDuration(expires)
			if err != nil || d <= 0 {
				return usagef("--expires %q: say how long, as 90d or 24h", expires)
			}
			in.Expires = c.now().Add(time.Duration(d)).UTC().Format(time.RFC3339)
			var out api.Key
			if err := c.ask(cmd.Context(), http.MethodPost, keysPath, nil, in, &out); err != nil {
				return err
			}
			return c.done(out, "%s\n\nThis is the key %s, for the %s. It ends %s, and is not shown again.",
				out.Key, out.ID, printable(keyHolder(out)), c.when(out.Expires))
		},
	}
	cmd.Flags().StringVar(&role, "role", "", "`ROLE`: operator, reseller or brand")
	cmd.Flags().StringVar(&in.Reseller, "reseller", "", "`NAME` of the reseller, for the role reseller")
	cmd.Flags().StringVar(&in.Provider, "provider", "", "`NAME` of the provider, for the role brand")
	cmd.Flags().StringVar(&expires, "expires", "90d", "how long it lives, as a `DURATION` such as 90d; two years at most")
	cmd.Flags().StringVar(&in.Note, "note", "", "`TEXT` that says what the key is for")
	c.jsonFlag(cmd)
	return cmd
}

// keyHolder is for whom a key acts.
func keyHolder(k api.Key) string {
	if subject := k.Reseller + k.Provider; subject != "" {
		return string(k.Role) + " " + subject
	}
	return string(k.Role)
}

func (c *cli) keyList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the keys, without the keys themselves",
		Example: "  posthorn key list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.Key](cmd.Context(), c, keysPath, nil)
			if err != nil {
				return err
			}
			return table[api.Key]{
				empty:  `There are no keys; make one with "posthorn key add --role operator".`,
				header: []string{"KEY", "FOR", "ENDS", "LAST USED", "NOTE"},
				row: func(k api.Key) []string {
					return []string{k.ID, keyHolder(k), c.when(k.Expires), c.when(k.LastUsed), k.Note}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) keyRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove KEY",
		Short:   "End a key at once",
		Long:    "End a key at once. KEY is its id, as posthorn key list shows it.",
		Example: "  posthorn key remove 0123456789abcdef",
		Args:    operands("KEY"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := c.ask(cmd.Context(), http.MethodDelete, keysPath+"/"+url.PathEscape(args[0]), nil, nil, nil); err != nil {
				return err
			}
			return c.done(removed{args[0]}, "Key %s removed.", printable(args[0]))
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
