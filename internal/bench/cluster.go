package bench

import "context"

func (r *runner) cluster(ctx context.Context) error   { return nil }
func (r *runner) reconcile(ctx context.Context) error { return nil }
