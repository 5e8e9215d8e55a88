// SPDX-License-Identifier: Apache-2.0
// Copyright The postern authors
//
// What the guest cannot find by itself: how to switch off, the serial port, the clock, PCI. Numbers are those of board.h.
DefinitionBlock ("dsdt.aml", "DSDT", 2, "POSTRN", "POSTERN ", 1)
{
	Name (\_S5, Package () { 5, 5, 0, 0 })

	Scope (\_SB)
	{
		Device (COM1)
		{
			Name (_HID, EisaId ("PNP0501"))
			Name (_UID, 1)
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x03f8, 0x03f8, 1, 8)
				IRQNoFlags () { 4 }
			})
		}

		// One bus, without interrupt lines: functions have MSI-X.
		Device (PCI0)
		{
			Name (_HID, EisaId ("PNP0A08"))
			Name (_CID, EisaId ("PNP0A03"))
			Name (_SEG, 0)
			Name (_BBN, 0)
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
					0, 0, 0, 0, 1)
				IO (Decode16, 0x0cf8, 0x0cf8, 1, 8)
				DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0xc0000000, 0xdfffffff, 0, 0x20000000)
				QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable, ReadWrite,
					0, 0x800000000, 0xfffffffff, 0, 0x800000000)
			})
		}

		// Configuration space, so that it is nobody else's.
		Device (ECAM)
		{
			Name (_HID, EisaId ("PNP0C02"))
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				Memory32Fixed (ReadWrite, 0xe0000000, 0x00100000)
			})
		}

		// Which machine it is (device/identity.h): the VM generation ID, whose
		// driver asks for its address, and vmclock.
		Device (VGEN)
		{
			Name (_HID, "PSTN0001")
			Name (_CID, "VM_Gen_Counter")
			Name (_DDN, "VM_Gen_Counter")
			Name (_STA, 0x0f)
			Name (ADDR, Package () { 0xfeffa000, 0 })
		}

		Device (VCLK)
		{
			Name (_HID, "AMZNC10C")
			Name (_CID, "VMCLOCK")
			Name (_DDN, "VMCLOCK")
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, Cacheable, ReadOnly,
					0, 0xfeffb000, 0xfeffbfff, 0, 0x1000)
			})
		}

		// Says that they have changed (ACPI 6.5 section 5.6.9).
		Device (GED)
		{
			Name (_HID, "ACPI0013")
			Name (_UID, 0)
			Name (_CRS, ResourceTemplate ()
			{
				Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 5 }
			})
			Method (_EVT, 1, Serialized)
			{
				If (LEqual (Arg0, 5))
				{
					Notify (\_SB.VGEN, 0x80)
					Notify (\_SB.VCLK, 0x80)
				}
			}
		}

		Device (RTC)
		{
			Name (_HID, EisaId ("PNP0B00"))
			Name (_STA, 0x0f)
			Name (_CRS, ResourceTemplate ()
			{
				IO (Decode16, 0x0070, 0x0070, 1, 2)
			})
		}
	}
}
