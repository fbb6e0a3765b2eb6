package api

import (
	"net/http"

	"github.com/posthorn-mail/posthorn/internal/cluster"
)

// Node is one node of the cluster, as the node that was asked sees it.
type Node struct {
	ID   string `json:"id"`
	Name string `json:"name"`
	// Self marks the node that was asked.
	Self    bool   `json:"self"`
	Version string `json:"version"`
	// State is "willing", "unwilling", "draining" or "ignored".
	State string `json:"state"`
	// Reason is why it is ignored: "other_key" or "same_id".
	Reason string `json:"reason,omitempty"`
	// Since is when its process joined, by its own clock.
	Since string `json:"since,omitempty"`
	// SilentMillis is how long nothing was heard of it.
	SilentMillis int64 `json:"silent_ms"`
}

func nodeView(m cluster.Member) Node {
	n := Node{ID: m.ID, Name: m.Name, Self: m.Self, Version: m.Version, State: "willing", Since: stamp(m.Since), SilentMillis: m.Silent.Milliseconds()}
	switch {
	case m.Ignored != "":
		n.State, n.Reason = "ignored", m.Ignored
	case m.Draining:
		n.State = "draining"
	case !m.Willing:
		n.State = "unwilling"
	}
	return n
}

func (a *API) listNodes(*http.Request) (int, any, error) {
	return listOf(append(a.Cluster.Members(), a.Cluster.Ignored()...), nil, nodeView)
}

func (a *API) drain(*http.Request) (int, any, error) {
	a.Cluster.Drain()
	return a.self()
}

func (a *API) undrain(*http.Request) (int, any, error) {
	a.Cluster.Undrain()
	return a.self()
}

// self answers with this node.
func (a *API) self() (int, any, error) {
	for _, m := range a.Cluster.Members() {
		if m.Self {
			return http.StatusOK, nodeView(m), nil
		}
	}
	return http.StatusOK, nil, nil // it has left already
}
