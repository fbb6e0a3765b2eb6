package main

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const resellersPath = "/admin/v1/resellers"

func (c *cli) resellerCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "reseller", Short: "Add, change, list and remove resellers, whose a number of contexts are"}
	cmd.AddCommand(c.resellerAdd(), c.resellerSet(), c.resellerList(), c.resellerRemove())
	return cmd
}

// resellerFlags are the flags of a reseller that is added or changed.
func (c *cli) resellerFlags(cmd *cobra.Command, r *api.Reseller) {
	cmd.Flags().StringVar(&r.Title, "title", "", "`NAME` for people")
	cmd.Flags().StringVar(&r.Contact, "contact", "", "`TEXT` that says how to reach the reseller")
}

func (c *cli) resellerAdd() *cobra.Command {
	var in api.Reseller
	cmd := &cobra.Command{
		Use:     "add NAME",
		Short:   "Add a reseller",
		Long:    "Add a reseller. Its contexts are those with posthorn context add --reseller NAME, and those it adds itself.",
		Example: "  posthorn reseller add north --title \"North Mail\" --contact support@north.example",
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Name = args[0]
			var out api.Reseller
			if err := c.ask(cmd.Context(), http.MethodPost, resellersPath, nil, in, &out); err != nil {
				return err
			}
			return c.done(out, "Reseller %s added.", printable(out.Name))
		},
	}
	c.resellerFlags(cmd, &in)
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) resellerSet() *cobra.Command {
	var in api.Reseller
	cmd := &cobra.Command{
		Use:     "set NAME",
		Short:   "Change what the flags give of a reseller",
		Example: "  posthorn reseller set north --contact +49301234",
		Args:    operands("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			change, err := given(cmd, map[string]any{"title": in.Title, "contact": in.Contact})
			if err != nil {
				return err
			}
			var out api.Reseller
			if err := c.ask(cmd.Context(), http.MethodPatch, resellersPath+"/"+url.PathEscape(args[0]), nil, change, &out); err != nil {
				return err
			}
			return c.done(out, "Reseller %s changed.", printable(out.Name))
		},
	}
	c.resellerFlags(cmd, &in)
	c.jsonFlag(cmd)
	return cmd
}

// given is those of a change's members whose flags, of the same names with hyphens, are on the command line.
func given(cmd *cobra.Command, members map[string]any) (map[string]any, error) {
	change := map[string]any{}
	for name, value := range members {
		if cmd.Flags().Changed(strings.ReplaceAll(name, "_", "-")) {
			change[name] = value
		}
	}
	if len(change) == 0 {
		return nil, usagef("there is nothing to change: give a flag")
	}
	return change, nil
}

func (c *cli) resellerList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the resellers",
		Example: "  posthorn reseller list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.Reseller](cmd.Context(), c, resellersPath, nil)
			if err != nil {
				return err
			}
			return table[api.Reseller]{
				empty:  `There are no resellers; add one with "posthorn reseller add NAME".`,
				header: []string{"RESELLER", "TITLE", "CONTACT"},
				row:    func(r api.Reseller) []string { return []string{r.Name, r.Title, r.Contact} },
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) resellerRemove() *cobra.Command {
	return c.removal("NAME", "Reseller", &cobra.Command{
		Use:     "remove NAME",
		Short:   "Remove a reseller that has no contexts, with its keys and values",
		Example: "  posthorn reseller remove north",
	}, resellersPath)
}

// removal is a command that removes what its one operand names.
func (c *cli) removal(operand, noun string, cmd *cobra.Command, path string) *cobra.Command {
	cmd.Args = operands(operand)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := c.ask(cmd.Context(), http.MethodDelete, path+"/"+url.PathEscape(args[0]), nil, nil, nil); err != nil {
			return err
		}
		return c.done(removed{args[0]}, "%s %s removed.", noun, printable(args[0]))
	}
	c.jsonFlag(cmd)
	return cmd
}
