package main

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const contextSetsPath = "/admin/v1/contextsets"

func (c *cli) contextSetCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "contextset", Short: "Add, change, list, test and remove context sets: the contexts with some tags"}
	cmd.AddCommand(c.contextSetAdd(), c.contextSetSet(), c.contextSetList(), c.contextSetTest(), c.contextSetRemove())
	return cmd
}

func (c *cli) contextSetFlags(cmd *cobra.Command, s *api.ContextSet) {
	cmd.Flags().StringVar(&s.WithTags, "with-tags", "", "`EXPR` over tags, such as \"webmail & (premium | trial)\"")
	cmd.Flags().IntVar(&s.Priority, "priority", 0, "of several sets that match, the one with the higher `N` wins")
}

func (c *cli) contextSetAdd() *cobra.Command {
	var in api.ContextSet
	cmd := &cobra.Command{
		Use:   "add NAME --with-tags EXPR",
		Short: "Add a context set",
		Long: "Add a context set: the contexts whose tags meet EXPR. What is set for it (posthorn property set) holds for each\n" +
			"of them, unless something more specific says otherwise.",
		Example: "  posthorn contextset add premium --with-tags \"webmail & (premium | trial)\" --priority 10",
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if in.Name = args[0]; in.WithTags == "" {
				return usagef("--with-tags is missing: the condition that contexts meet")
			}
			var out api.ContextSet
			if err := c.ask(cmd.Context(), http.MethodPost, contextSetsPath, nil, in, &out); err != nil {
				return err
			}
			return c.done(out, "Context set %s added.", printable(out.Name))
		},
	}
	c.contextSetFlags(cmd, &in)
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) contextSetSet() *cobra.Command {
	var in api.ContextSet
	cmd := &cobra.Command{
		Use:     "set NAME",
		Short:   "Change what the flags give of a context set",
		Example: "  posthorn contextset set premium --priority 20",
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := given(cmd, map[string]any{"with_tags": in.WithTags, "priority": in.Priority})
			if err != nil {
				return err
			}
			var out api.ContextSet
			if err := c.ask(cmd.Context(), http.MethodPatch, contextSetsPath+"/"+url.PathEscape(args[0]), nil, change, &out); err != nil {
				return err
			}
			return c.done(out, "Context set %s changed.", printable(out.Name))
		},
	}
	c.contextSetFlags(cmd, &in)
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) contextSetList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the context sets with their contexts, the one that wins over the others last",
		Example: "  posthorn contextset list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.ContextSet](cmd.Context(), c, contextSetsPath, nil)
			if err != nil {
				return err
			}
			return table[api.ContextSet]{
				empty:  `There are no context sets; add one with "posthorn contextset add NAME --with-tags EXPR".`,
				header: []string{"CONTEXT SET", "WITH TAGS", "PRIORITY", "CONTEXTS", "FROM"},
				row: func(s api.ContextSet) []string {
					return []string{s.Name, s.WithTags, strconv.Itoa(s.Priority), numbers(s.Contexts), s.Origin}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

// numbers shows some ids, and how many more there are.
func numbers(ids []int64) string {
	const shown = 8
	var all []string
	for i, id := range ids {
		if i == shown {
			all = append(all, "and "+strconv.Itoa(len(ids)-shown)+" more")
			break
		}
		all = append(all, strconv.FormatInt(id, 10))
	}
	return strings.Join(all, " ")
}

func (c *cli) contextSetTest() *cobra.Command {
	var tags string
	cmd := &cobra.Command{
		Use:   "test EXPR",
		Short: "Say whether a condition holds for tags, and for which contexts",
		Example: "  posthorn contextset test \"webmail & (premium | trial)\" --tags webmail,trial\n" +
			"  posthorn contextset test \"!premium\"",
		Args: operands("EXPR"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"expression": {args[0]}}
			if cmd.Flags().Changed("tags") {
				q.Set("tags", tags)
			}
			var out api.ContextSetTest
			if err := c.ask(cmd.Context(), http.MethodGet, "/admin/v1/tags", q, nil, &out); err != nil {
				return err
			}
			if c.json {
				return c.printJSON(out)
			}
			if out.Matches != nil {
				word := "does not hold"
				if *out.Matches {
					word = "holds"
				}
				if err := c.done(nil, "The condition %s for the tags %s.", word, printable(tags)); err != nil {
					return err
				}
			}
			return table[api.Context]{
				empty: "It holds for no context that there is.", header: contextHeader, row: contextRow,
			}.print(c, out.Contexts)
		},
	}
	cmd.Flags().StringVar(&tags, "tags", "", "`TAGS` to try, with commas")
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) contextSetRemove() *cobra.Command {
	return c.removal("NAME", "Context set", &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a context set, with the values that are set for it",
		Example: "  posthorn contextset remove premium",
	}, contextSetsPath)
}
