package main

import (
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/posthorn-mail/posthorn/internal/api"
)

const (
	nodesPath = "/admin/v1/cluster/nodes"
	drainPath = "/admin/v1/cluster/drain"
)

func (c *cli) clusterCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "cluster", Short: "See the nodes of the cluster, and take one out of work"}
	cmd.AddCommand(c.clusterNodes(), c.clusterDrain(), c.clusterUndrain())
	return cmd
}

func (c *cli) clusterNodes() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "List the nodes that this one sees",
		Long: `List the nodes that are alive, as the node that is asked sees them. A node that was killed is missing
after 4 seconds, one that was stopped at once.

willing nodes share the listeners among them; a draining or unwilling one has none, and does all the other work.
An ignored one is alive but no member, because its credentials are sealed with another key (other_key), or
because it has the id of the node that is asked (same_id).`,
		Example: "  posthorn cluster nodes\n  posthorn cluster nodes --json",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			items, err := fetch[api.Node](cmd.Context(), c, nodesPath, nil)
			if err != nil {
				return err
			}
			return table[api.Node]{
				header: []string{"NAME", "ID", "STATE", "SINCE", "HEARD", "VERSION"},
				row: func(n api.Node) []string {
					state, heard := n.State, (time.Duration(n.SilentMillis)*time.Millisecond).Round(100*time.Millisecond).String()+" ago"
					if n.Reason != "" {
						state += " (" + n.Reason + ")"
					}
					if n.Self {
						heard = "this node"
					}
					return []string{n.Name, n.ID, state, n.Since, heard, n.Version}
				},
			}.print(c, items)
		},
	}
	c.listFlag(cmd)
	return cmd
}

func (c *cli) clusterDrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "drain",
		Short: "Hand this node's listeners over to the others",
		Long: `Hand the listeners of the node that is asked over to the others, and take no new ones. It goes on with all its
other work, until "posthorn cluster undrain" or a restart. A stop with SIGTERM drains by itself.`,
		Example: "  posthorn cluster drain",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var n api.Node
			if err := c.ask(cmd.Context(), http.MethodPut, drainPath, nil, nil, &n); err != nil {
				return err
			}
			return c.done(n, "Node %s is %s: others take its listeners over.", printable(n.Name), n.State)
		},
	}
	c.jsonFlag(cmd)
	return cmd
}

func (c *cli) clusterUndrain() *cobra.Command {
	cmd := &cobra.Command{
		Use:     "undrain",
		Short:   "Let this node have listeners again",
		Example: "  posthorn cluster undrain",
		Args:    operands(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var n api.Node
			if err := c.ask(cmd.Context(), http.MethodDelete, drainPath, nil, nil, &n); err != nil {
				return err
			}
			return c.done(n, "Node %s is %s.", printable(n.Name), n.State)
		},
	}
	c.jsonFlag(cmd)
	return cmd
}
