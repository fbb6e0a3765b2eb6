package main

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const contextsPath = "/admin/v1/contexts"

func (c *cli) contextCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "context", Short: "Add, change, list and remove contexts (tenants)"}
	cmd.AddCommand(c.contextAdd(), c.contextSet(), c.contextList(), c.contextRemove())
	return cmd
}

func (c *cli) contextAdd() *cobra.Command {
	var in api.Context
	cmd := &cobra.Command{
		Use:   "add [ID] --name NAME",
		Short: "Add a context",
		Long:  "Add a context: a tenant, the second number of a user's id (3@1). Without ID the next free one is taken.",
		Example: "  posthorn context add --name \"Example GmbH\"\n" +
			"  posthorn context add 1337 --name acme --reseller north --tags webmail,premium",
		Args: operands("[ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				id, err := contextID(args[0])
				if err != nil {
					return err
				}
				in.ID = id
			}
			if in.Name == "" {
				return usagef("--name is missing")
			}
			var out api.Context
			if err := c.ask(cmd.Context(), http.MethodPost, contextsPath, nil, in, &out); err != nil {
				return err
			}
			return c.done(out, "Context %d (%s) added.", out.ID, printable(out.Name))
		},
	}
	c.contextFlags(cmd, &in)
	c.jsonFlag(cmd)
	return cmd
}

// contextFlags are the flags of a context that is added or changed.
func (c *cli) contextFlags(cmd *cobra.Command, in *api.Context) {
	cmd.Flags().StringVar(&in.Name, "name", "", "`NAME` of the tenant, for people")
	cmd.Flags().StringVar(&in.Reseller, "reseller", "", "`NAME` of the reseller whose it is; none is your own")
	cmd.Flags().StringSliceVar(&in.Tags, "tags", nil, "`TAGS` that context sets ask for, with commas")
}

func (c *cli) contextSet() *cobra.Command {
	var in api.Context
	cmd := &cobra.Command{
		Use:     "set ID",
		Short:   "Change what the flags give of a context",
		Example: "  posthorn context set 1337 --tags webmail,trial\n  posthorn context set 1337 --reseller=",
		Args:    operands("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := contextID(args[0])
			if err != nil {
				return err
			}
			change, err := given(cmd, map[string]any{"name": in.Name, "reseller": in.Reseller, "tags": append([]string{}, in.Tags...)})
			if err != nil {
				return err
			}
			var out api.Context
			path := contextsPath + "/" + strconv.FormatInt(id, 10)
			if err := c.ask(cmd.Context(), http.MethodPatch, path, nil, change, &out); err != nil {
				return err
			}
			return c.done(out, "Context %d (%s) changed.", out.ID, printable(out.Name))
		},
	}
	c.contextFlags(cmd, &in)
	c.jsonFlag(cmd)
	return cmd
}

var contextHeader = []string{"CONTEXT", "NAME", "RESELLER", "TAGS"}

func contextRow(x api.Context) []string {
	return []string{strconv.FormatInt(x.ID, 10), x.Name, x.Reseller, strings.Join(x.Tags, " ")}
}

func (c *cli) contextList() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List the contexts",
		Example: "  posthorn context list --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.Context](cmd.Context(), c, contextsPath, nil)
			if err != nil {
				return err
			}
			return table[api.Context]{
				empty:  `There are no contexts; add one with "posthorn context add --name NAME".`,
				header: contextHeader,
				row:    contextRow,
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) contextRemove() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "remove ID",
		Short:   "Remove a context that has no users",
		Example: "  posthorn context remove 1337",
		Args:    operands("ID"),
		RunE: func(cmd *cobra.Command, args []string) error {
			id, err := contextID(args[0])
			if err != nil {
				return err
			}
			path := contextsPath + "/" + strconv.FormatInt(id, 10)
			if err := c.ask(cmd.Context(), http.MethodDelete, path, nil, nil, nil); err != nil {
				return err
			}
			return c.done(removed{strconv.FormatInt(id, 10)}, "Context %d removed.", id)
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

// removed is the JSON answer of a removal.
type removed struct {
	Removed string `json:"removed"`
}

func contextID(s string) (int64, error) {
	id, err := strconv.ParseInt(s, 10, 64)
	if err != nil || id < 1 {
		return 0, usagef("%q is not a context: say its number, as 1", s)
	}
	return id, nil
}
