package main

import (
	"net/http"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const contextsPath = "/admin/v1/contexts"

func (c *cli) contextCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "context", Short: "Add, list and remove contexts (tenants)"}
	cmd.AddCommand(c.contextAdd(), c.contextList(), c.contextRemove())
	return cmd
}

func (c *cli) contextAdd() *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:   "add [ID] --name NAME",
		Short: "Add a context",
		Long:  "Add a context: a tenant, the second number of a user's id (3@1). Without ID the next free one is taken.",
		Example: "  posthorn context add --name \"Example GmbH\"\n" +
			"  posthorn context add 1337 --name acme",
		Args: operands("[ID]"),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := api.Context{Name: name}
			if len(args) > 0 {
				id, err := contextID(args[0])
				if err != nil {
					return err
				}
				in.ID = id
			}
			if name == "" {
				return usagef("--name is missing")
			}
			var out api.Context
			if err := c.ask(cmd.Context(), http.MethodPost, contextsPath, nil, in, &out); err != nil {
				return err
			}
			return c.done(out, "Context %d (%s) added.", out.ID, printable(out.Name))
		},
	}
	cmd.Flags().StringVar(&name, "name", "", "`NAME` of the tenant, for people")
	c.jsonFlag(cmd)
	return cmd
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
				header: []string{"CONTEXT", "NAME"},
				row:    func(x api.Context) []string { return []string{strconv.FormatInt(x.ID, 10), x.Name} },
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
