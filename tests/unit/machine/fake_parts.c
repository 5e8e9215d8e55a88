// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// See fake_parts.h: what machine/ calls of kvm/, arch/ and its board.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "device/identity.h"
#include "device/virtio/balloon.h"
#include "kvm/probe.h"
#include "machine/internal.h"
#include "tests/unit/machine/fake_parts.h"

struct vm fake_vm;
struct board fake_board;

int vm_new(struct vm **out, struct vm_host *host, struct memory *mem, unsigned int cpus,
	   const struct vm_exit_ops *ops, void *arg, struct err *err)
{
	(void)host, (void)mem, (void)cpus, (void)ops, (void)arg, (void)err;
	fake_vm = (struct vm){ .running = false };
	*out = &fake_vm;
	return 0;
}

int vm_end_vcpus(struct vm *vm)
{
	(void)vm;
	return 0;
}

void vm_free(struct vm *vm)
{
	(void)vm;
}

int vm_each(struct vm *vm, int (*fn)(struct vcpu_parked *parked, void *arg, struct err *err), void *arg, struct err *err)
{
	(void)fn, (void)arg, (void)err;
	assert_false(vm->running);
	return 0;
}

int vm_boot(struct vm *vm, const struct arch_boot *boot, struct err *err)
{
	(void)boot, (void)err;
	assert_false(vm->running);
	return 0;
}

unsigned int parked_index(const struct vcpu_parked *parked)
{
	(void)parked;
	return 0;
}

int vm_pause(struct vm *vm, int timeout_ms, struct err *err)
{
	(void)timeout_ms, (void)err;
	vm->running = false;
	vm->alone = 0;
	return 0;
}

void vm_ask_pause(struct vm *vm)
{
	(void)vm;
}

void vm_resume(struct vm *vm)
{
	vm->running = true;
}

struct vcpu {
	unsigned int index;
};

struct vcpu *vm_vcpu(const struct vm *vm, unsigned int index)
{
	static struct vcpu vcpu[VM_VCPUS_MAX];

	(void)vm;
	vcpu[index].index = index;
	return &vcpu[index];
}

void vcpu_resume(struct vcpu *vcpu)
{
	fake_vm.alone |= UINT32_C(1) << vcpu->index;
}

int vm_complete_io(struct vm *vm, bool drop, struct err *err)
{
	(void)drop, (void)err;
	assert_false(vm->running);
	return 0;
}

int probe_way_out(enum way_out *way, int64_t *took_us, struct err *err)
{
	(void)took_us, (void)err;
	*way = WAY_OUT_KERNEL;
	return 0;
}

int arch_memory_layout(uint64_t bytes, struct memory_range *ranges, unsigned int *n, struct err *err)
{
	(void)err;
	ranges[0] = (struct memory_range){ GPA(0), bytes };
	*n = 1;
	return 0;
}

int arch_boot_load(struct arch_boot *boot, const struct arch_boot_config *config, struct memory *mem, struct err *err)
{
	(void)boot, (void)config, (void)mem, (void)err;
	fake_vm.loads++;
	return 0;
}

int arch_vm_reset(struct vm *vm, struct err *err)
{
	(void)err;
	assert_false(vm->running);
	return 0;
}

int arch_clock_stop(struct vm *vm, uint64_t *clock, struct err *err)
{
	(void)vm, (void)err;
	*clock = 0;
	return 0;
}

int arch_clock_start(struct vm *vm, uint64_t clock, struct err *err)
{
	(void)vm, (void)clock, (void)err;
	return 0;
}

int arch_clock_advance(struct vm *vm, uint64_t ns, struct err *err)
{
	(void)vm, (void)ns, (void)err;
	return 0;
}

int arch_vcpu_clock_advance(struct vcpu_parked *vcpu, uint64_t ns, struct err *err)
{
	(void)vcpu, (void)ns, (void)err;
	return 0;
}

int arch_vm_save(struct vm *vm, struct buf *out, struct err *err)
{
	(void)vm, (void)out, (void)err;
	return 0;
}

int arch_vm_load(struct vm *vm, const uint8_t *data, size_t len, struct err *err)
{
	(void)vm, (void)data, (void)len, (void)err;
	return 0;
}

int arch_vcpu_save(struct vcpu_parked *vcpu, struct buf *out, struct err *err)
{
	(void)vcpu, (void)out, (void)err;
	return 0;
}

int arch_vcpu_load(struct vcpu_parked *vcpu, const uint8_t *data, size_t len, struct err *err)
{
	(void)vcpu, (void)data, (void)len, (void)err;
	return 0;
}

int arch_vcpu_early_pages(struct vcpu_parked *vcpu, int (*fn)(void *arg, gfn_t gfn), void *arg, struct err *err)
{
	(void)vcpu, (void)fn, (void)arg, (void)err;
	return 0;
}

int board_new(struct board **out, const struct board_config *config, struct err *err)
{
	(void)config, (void)err;
	fake_board = (struct board){ .busy = false };
	*out = &fake_board;
	return 0;
}

void board_free(struct board *board)
{
	(void)board;
}

const struct device *board_devices(const struct board *board, unsigned int *n)
{
	(void)board;
	*n = 0;
	return NULL;
}

void board_press_power_button(struct board *board)
{
	(void)board;
}

struct identity *board_identity(const struct board *board)
{
	(void)board;
	return NULL;
}

void identity_disrupt(struct identity *identity)
{
	(void)identity;
	fake_board.disrupted++;
}

void identity_id(struct identity *identity, uint8_t id[IDENTITY_ID_BYTES])
{
	(void)identity;
	memset(id, 0, IDENTITY_ID_BYTES);
}

struct vdev *board_balloon(const struct board *board)
{
	(void)board;
	return NULL;
}

void board_start(struct board *board)
{
	(void)board;
}

void board_stop(struct board *board)
{
	(void)board;
}

void board_memory_complete(struct board *board)
{
	(void)board;
}

int board_drain(struct board *board, int64_t deadline_ns, struct err *err)
{
	(void)board, (void)deadline_ns, (void)err;
	return 0;
}

bool board_is_busy(struct board *board)
{
	return board->busy;
}

int board_claim(struct board *board, struct err *err)
{
	(void)board, (void)err;
	return 0;
}

void board_release(struct board *board)
{
	(void)board;
}

int board_renew(struct board *board, struct err *err)
{
	(void)board, (void)err;
	return 0;
}

bool board_disk(struct board *board, unsigned int i, struct disk_info *info)
{
	(void)board, (void)i, (void)info;
	return false;
}

void balloon_set_target(struct vdev *dev, uint32_t pages)
{
	(void)dev, (void)pages;
}

uint32_t balloon_actual(struct vdev *dev)
{
	(void)dev;
	return 0;
}
