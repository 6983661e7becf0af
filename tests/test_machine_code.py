"""Counts of machine instructions, on code written for the purpose."""

from __future__ import annotations

import pytest

from support import machine_code

# a product loop, which waits in a loop after the exit; a block of 40 for the diagonal; a store that some threads skip
CODE = """
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 BRA `(.L_x_0) ;
.L_x_2:
        /*0020*/              @!P0 BRA `(.L_x_3) ;
.L_x_4:
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24 ;
        /*0040*/              @!P0 BRA `(.L_x_2) ;
.L_x_0:
        /*0050*/                   MUFU.EX2 R0, R1 ;
        /*0060*/                   BRA.U !UP1, `(.L_x_1) ;
{cold}
.L_x_1:
        /*0070*/               @P1 BRA `(.L_x_5) ;
        /*0080*/                   STG.E [R2.64], R0 ;
.L_x_5:
        /*0090*/                   MUFU.RCP R0, R0 ;
        /*00a0*/               @P1 EXIT ;
        /*00b0*/                   STG.E [R2.64], R0 ;
        /*00c0*/                   EXIT ;
.L_x_3:
        /*00d0*/              @!P0 BRA `(.L_x_3) ;
        /*00e0*/                   BRA `(.L_x_4) ;
"""
COLD = "        /*0100*/                   FSEL R5, R5, R6, P1 ;\n"


def test_the_way_jumps_over_cold_blocks_alone_and_leaves_products_out():
    found = machine_code.way(CODE.format(cold=COLD * 40))
    assert found.before == {"MOV": 1, "BRA": 1}
    assert found.after == {"MUFU": 2, "BRA": 2, "STG": 2, "EXIT": 2}
    assert found.static == 50
    assert found.per_pair(64, 128, 8, "MUFU") == 2 * 256 / 8192 and found.per_pair(64, 128, 8) == 8 * 256 / 8192


def test_a_short_block_counts():
    assert machine_code.way(CODE.format(cold=COLD * 30)).after["FSEL"] == 30


def test_code_without_products_is_refused():
    with pytest.raises(ValueError, match="tensor-core"):
        machine_code.way(COLD)
