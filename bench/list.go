package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"banger/api"
	"banger/internal/store"
)

const listTimeout = time.Minute

// measureList compares the API's list of all VMs with a bare query on the same file.
func (b *bench) measureList(ctx context.Context) (result, error) {
	r := result{Note: "all machines by the API; the bare SQL query on the same file"}
	for _, vms := range []int{10, 10_000} {
		few, err := b.listOf(ctx, vms)
		if err != nil {
			return r, err
		}
		r.Series = append(r.Series, few...)
		r.Ratios = append(
			r.Ratios,
			ratio{Name: fmt.Sprintf("median over bare query, %d machines", vms), Value: few[0].Median / few[1].Median},
		)
	}
	return r, nil
}

// listOf measures in a home folder of its own that holds nothing but records.
func (b *bench) listOf(ctx context.Context, vms int) (_ []series, err error) {
	h, err := openHome("", b.home.bin)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, h.close(ctx)) }()
	if err := insertVMs(ctx, h.folder().Database(), vms); err != nil {
		return nil, err
	}
	if err := h.banger(ctx, "ls", "--json"); err != nil { // starts the daemon
		return nil, err
	}
	db, err := openDatabase(h.folder().Database())
	if err != nil {
		return nil, err
	}
	defer db.Close()
	return interleave(ctx, 3, b.lists, listTimeout,
		timed(fmt.Sprintf("API, %d machines", vms), func(ctx context.Context) error {
			list, err := h.client.Machines(ctx)
			if err == nil && len(list) != vms {
				err = fmt.Errorf("the API lists %d machines", len(list))
			}
			return err
		}),
		timed(fmt.Sprintf("bare query, %d machines", vms), func(ctx context.Context) error {
			rows, err := queryVMs(ctx, db)
			if err == nil && rows != vms {
				err = fmt.Errorf("the query gives %d rows", rows)
			}
			return err
		}),
	)
}

// insertVMs makes a database with as many VMs, all stopped.
func insertVMs(ctx context.Context, path string, vms int) error {
	records, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	defer records.Close()
	now := time.Now()
	err = errors.Join(
		records.PutArtifact(ctx, store.KindImage, store.Artifact{ID: "image", Name: "debian:trixie", Source: "bench", CreatedAt: now}),
		records.PutArtifact(ctx, store.KindKernel, store.Artifact{ID: "kernel", Name: "debian:trixie", Source: "bench", CreatedAt: now}),
	)
	if err != nil {
		return err
	}
	for i := range vms {
		err := records.InsertVM(ctx, &store.VM{
			ID: fmt.Sprintf("%012x", i), Name: fmt.Sprintf("vm-%d", i), ImageID: "image", KernelID: "kernel",
			CPUs: 2, MemoryMiB: 1024, DiskMiB: 16384, State: api.StateStopped,
			CreatedAt: now.Add(time.Duration(i) * time.Second), Network: api.NetworkNone,
		}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// openDatabase opens the file with the driver that package store registers.
func openDatabase(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", path)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	return db, nil
}

// queryVMs reads every column of every VM, with the names of its image and kernel, and counts the
// rows.
func queryVMs(ctx context.Context, db *sql.DB) (int, error) {
	rows, err := db.QueryContext(ctx, `SELECT vms.*, i.name, k.name FROM vms
JOIN image_names i ON i.image_id = vms.image_id JOIN kernel_names k ON k.kernel_id = vms.kernel_id ORDER BY vms.created_at, vms.id`)
	if err != nil {
		return 0, fmt.Errorf("query machines: %w", err)
	}
	defer rows.Close()
	columns, err := rows.Columns()
	if err != nil {
		return 0, err
	}
	values, pointers := make([]any, len(columns)), make([]any, len(columns))
	for i := range values {
		pointers[i] = &values[i]
	}
	n := 0
	for ; rows.Next(); n++ {
		if err := rows.Scan(pointers...); err != nil {
			return 0, err
		}
	}
	return n, rows.Err()
}
